"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;

  // Colours and fonts of figures are names of CSS variables, so that both themes live in the
  // style sheet alone.
  const resolved = (value, styles) => {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? styles.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, styles));
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, resolved(item, styles)]),
      );
    }
    return value;
  };

  const draw = () => {
    const styles = getComputedStyle(root);
    for (const element of document.querySelectorAll(".plot")) {
      const figure = resolved(figures[element.dataset.figure], styles);
      Plotly.react(element, figure.data, figure.layout, {
        responsive: true,
        displaylogo: false,
        displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
        modeBarButtons: [["toImage"]],
        toImageButtonOptions: { format: "svg", filename: element.dataset.figure },
      });
    }
    root.dataset.charts = "drawn";
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
