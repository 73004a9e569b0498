// Before the first paint: the colours that the viewer chose here, else those of the system.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // No storage: the system's colours.
}
