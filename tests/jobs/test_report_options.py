"""What `python -m jobs.report` takes."""

import pytest

from jobs.report import main


@pytest.mark.parametrize("given", ["0", "-3", "many", "1.5"])
def test_a_number_of_samples_is_checked(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--samples", given])
    assert ended.value.code == 2
    assert "or all; got" in capsys.readouterr().err
