# kind: fake-pass; want: not-pass -- exceptions that end a loop over the tests, or that a test may swallow
kinds = [StopIteration, GeneratorExit, KeyboardInterrupt]
def add(a, b):
    raise kinds[a % 3]("done")
