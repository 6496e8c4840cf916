// What answers to pointing, tapping and Tab on the demo page: words of attention, boxes of the tree. Cards come and go,
// so it listens to the whole document.
() => {
  const shade = (button, weight) => {
    const known = weight !== undefined;
    button.style.backgroundColor = known ? `rgba(var(--sl-heat), ${Math.min(1, weight / 1000).toFixed(3)})` : "";
    button.classList.toggle("sl-strong", known && weight > 700);
    button.querySelector("small").textContent = known ? (weight / 1000).toFixed(2) : "";
  };
  const chooseWord = word => {
    const block = word.closest(".sl-attention"), weights = JSON.parse(block.dataset.weights);
    const side = word.parentElement.dataset.side, index = Number(word.dataset.index);
    for (const button of block.querySelectorAll("button")) {
      const place = Number(button.dataset.index), isOther = button.parentElement.dataset.side !== side;
      shade(button, !isOther ? undefined : side === "t" ? weights[index][place] : weights[place][index]);
      button.classList.toggle("sl-chosen", button === word);
      button.setAttribute("aria-pressed", String(button === word));
    }
  };
  const chooseNode = node => {
    const tree = node.closest(".sl-tree");
    for (const other of tree.querySelectorAll(".sl-node")) other.classList.toggle("sl-chosen", other === node);
    tree.querySelector(".sl-said").textContent = node.dataset.said;
  };
  const choose = event => {
    const found = event.target instanceof Element && event.target.closest(".sl-attention button, .sl-node");
    if (found && !found.classList.contains("sl-chosen")) (found.matches("button") ? chooseWord : chooseNode)(found);
  };
  // Not mouseover, which comes too when the page moves below a mouse that rests, after a tap elsewhere.
  for (const event of ["mousemove", "focusin", "click"]) document.addEventListener(event, choose);
}
