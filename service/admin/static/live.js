"use strict";
// Reads the page again every two seconds and takes over what has changed. Elements with data-leaf change their text or value in
// place. A section is replaced only if its other content changed, which the data-key attributes and the texts tell; the element
// that has the focus gets it back by its id.
(() => {
  const pause = document.getElementById("pause");
  const updated = document.getElementById("updated");
  let paused = false;
  let announced = "";

  const shape = (section) => {
    const copy = section.cloneNode(true);
    for (const leaf of copy.querySelectorAll("[data-leaf]")) {
      leaf.replaceChildren();
      for (const name of ["value", "max"]) leaf.removeAttribute(name);
    }
    for (const details of copy.querySelectorAll("details")) details.removeAttribute("open");
    return copy.innerHTML;
  };

  const patch = (section, fresh) => {
    if (shape(section) !== shape(fresh)) {
      const focused = section.contains(document.activeElement) ? document.activeElement.id : "";
      const open = [...section.querySelectorAll("details")].map((each) => each.open);
      section.replaceChildren(...fresh.childNodes);
      section.querySelectorAll("details").forEach((each, index) => { each.open = open[index] ?? false; });
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      return;
    }
    for (const leaf of section.querySelectorAll("[data-leaf]")) {
      const its = fresh.querySelector(`#${CSS.escape(leaf.id)}`);
      if (leaf instanceof HTMLProgressElement) {
        for (const name of ["max", "value"]) {
          if (its.hasAttribute(name)) leaf.setAttribute(name, its.getAttribute(name));
        }
      } else if (leaf.textContent !== its.textContent) {
        leaf.textContent = its.textContent;
      }
    }
  };

  const announce = (text) => {
    if (text !== announced) updated.textContent = announced = text;
  };

  const update = async () => {
    if (paused || document.hidden) return;
    try {
      const response = await fetch(location.pathname, { signal: AbortSignal.timeout(10000), redirect: "manual" });
      if (response.type === "opaqueredirect") { location.reload(); return; }
      if (!response.ok) throw new Error(String(response.status));
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      if (paused) return;
      for (const section of document.querySelectorAll("[data-live]")) {
        const its = fresh.getElementById(section.id);
        if (its) patch(section, its);
      }
      announce("This page updates itself every two seconds.");
    } catch {
      announce(`The service does not respond since ${new Date().toLocaleTimeString()}. This page shows the state before.`);
    }
  };

  const repeat = async () => {
    await update();
    setTimeout(repeat, 2000);
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    announce(paused ? "Updates are paused." : "This page updates itself every two seconds.");
  });
  announce("This page updates itself every two seconds.");
  setTimeout(repeat, 2000);
})();
