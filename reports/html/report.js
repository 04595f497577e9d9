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

  const plots = [...document.querySelectorAll(".plot")];
  const waiting = new Set(plots);

  const draw = (element) => {
    const figure = resolved(figures[element.dataset.figure], getComputedStyle(root));
    Plotly.react(element, figure.data, figure.layout, {
      responsive: true,
      displaylogo: false,
      displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
      modeBarButtons: [["toImage"]],
      toImageButtonOptions: { format: "svg", filename: element.dataset.figure },
    });
    waiting.delete(element);
  };
  const drawAll = () => waiting.forEach(draw);

  // Charts in view come first and the others one by one, so that the page answers meanwhile; each
  // has its height from the start, so that links lead where they should.
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && waiting.has(target)) draw(target);
    }
  });
  const whenIdle = window.requestIdleCallback ?? setTimeout;
  const drawNext = () => {
    const [next] = waiting;
    if (next) {
      draw(next);
      whenIdle(drawNext);
    } else {
      root.dataset.charts = "drawn";
    }
  };
  for (const element of plots) {
    element.style.minHeight = `${figures[element.dataset.figure].layout.height}px`;
    seen.observe(element);
  }
  whenIdle(drawNext);
  addEventListener("beforeprint", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(draw));
})();
