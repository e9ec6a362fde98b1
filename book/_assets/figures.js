// What is wider than its frame can also be scrolled by keyboard, and tells whether more follows.
addEventListener("DOMContentLoaded", () => {
  const mark = (frame) => {
    const hidden = frame.scrollWidth - frame.clientWidth;
    if (hidden > 0) frame.tabIndex = 0;
    else frame.removeAttribute("tabindex");
    frame.toggleAttribute("data-more", hidden - frame.scrollLeft > 1);
  };
  const watcher = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
  for (const frame of document.querySelectorAll(".cell_output > figure, .cell_output .output")) {
    watcher.observe(frame);
    frame.addEventListener("scroll", () => mark(frame));
  }
});
