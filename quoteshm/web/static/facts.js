// Lists of facts: a name and a value each, written in place.

/** Make a writer of facts for a <dl>: it takes pairs of name and text; an undefined text is left out. */
export function factsOf(list) {
  const shown = new Map();
  return (facts) => {
    const named = new Set();
    for (const [name, text] of facts) {
      if (text === undefined) continue;
      named.add(name);
      let value = shown.get(name);
      if (value === undefined) {
        const group = document.createElement("div");
        const term = document.createElement("dt");
        term.textContent = name;
        value = document.createElement("dd");
        group.append(term, value);
        list.append(group);
        shown.set(name, value);
      }
      if (value.textContent !== text) value.textContent = text;
    }
    for (const [name, value] of shown) {
      if (!named.has(name)) {
        value.parentElement.remove();
        shown.delete(name);
      }
    }
  };
}

export function text(id, words) {
  const element = document.getElementById(id);
  if (element.textContent !== words) element.textContent = words;
}
