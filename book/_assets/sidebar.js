// The theme's arrow that unfolds a part of the contents has no name of its own.
addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll(".has-children > details > summary")) {
    const page = arrow.closest(".has-children").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages of ${page}`);
  }
});
