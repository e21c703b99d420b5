(() => {
  "use strict";
  const arrays = new WeakMap();
  const SAVED = 512; // pixels of a saved picture, about

  // The bytes of a figure's array, a NumPy file.
  const fileOf = (figure) => Uint8Array.from(atob(figure.dataset.npy), (c) => c.charCodeAt(0));

  // Its values, little-endian float32 behind a header whose length stands at bytes 8 and 9.
  const valuesOf = (figure) => {
    if (!arrays.has(figure)) {
      const bytes = fileOf(figure);
      arrays.set(figure, new Float32Array(bytes.buffer.slice(10 + bytes[8] + 256 * bytes[9])));
    }
    return arrays.get(figure);
  };

  const colourOf = (figure, x, y) => {
    const canvas = new OffscreenCanvas(1, 1);
    const context = canvas.getContext("2d");
    context.drawImage(figure.querySelector("img"), -x, -y);
    return context.getImageData(0, 0, 1, 1).data;
  };

  const hex = ([r, g, b]) => "#" + [r, g, b].map((v) => v.toString(16).padStart(2, "0")).join("");

  const signed = (value) => (value > 0 ? "+" : "") + (value === 0 ? "0" : value.toPrecision(4).replace("-", "−"));

  const swatch = (colour) => {
    const square = document.createElement("i");
    square.style.background = colour;
    return square;
  };

  const describe = (figure, x, y) => {
    const place = `x ${x}, y ${y}`;
    if (figure.dataset.kind === "map") {
      const value = signed(valuesOf(figure)[y * figure.dataset.width + x]);
      return [`${place}: `, Object.assign(document.createElement("b"), { textContent: value }), ` ${figure.dataset.unit}`];
    }
    const colour = colourOf(figure, x, y);
    const opacity = colour[3] < 255 ? `, ${Math.round(colour[3] / 2.55)} % opaque` : "";
    return colour[3] === 0 ? [`${place}: nothing`] : [`${place}: `, swatch(hex(colour)), ` ${hex(colour)}${opacity}`];
  };

  // Show the pixel of one picture in all pictures of the image.
  const point = (results, x, y) => {
    for (const figure of results.querySelectorAll("figure[data-kind]")) {
      const { width, height } = figure.dataset;
      const cross = figure.querySelector(".bcos-picture i");
      cross.hidden = false;
      cross.style.left = `${((x + 0.5) / width) * 100}%`;
      cross.style.top = `${((y + 0.5) / height) * 100}%`;
      figure.querySelector("output").replaceChildren(...describe(figure, x, y));
    }
    results.dataset.x = x;
    results.dataset.y = y;
  };

  const inside = (value, size) => Math.min(Math.max(Math.floor(value), 0), size - 1);

  const follow = (event) => {
    const picture = event.target.closest?.(".bcos-picture");
    if (!picture) return;
    const { width, height } = picture.parentElement.dataset;
    const box = picture.querySelector("img").getBoundingClientRect();
    const x = inside(((event.clientX - box.left) / box.width) * width, width);
    const y = inside(((event.clientY - box.top) / box.height) * height, height);
    point(picture.closest(".bcos-results"), x, y);
  };
  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerdown", follow);

  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("keydown", (event) => {
    const picture = event.target.closest?.(".bcos-picture");
    if (!picture || !(event.key in steps)) return;
    event.preventDefault();
    const results = picture.closest(".bcos-results");
    const { width, height } = picture.parentElement.dataset;
    const [dx, dy] = results.dataset.x === undefined ? [0, 0] : steps[event.key];
    const x = inside(Number(results.dataset.x ?? width / 2) + dx, width);
    point(results, x, inside(Number(results.dataset.y ?? height / 2) + dy, height));
  });

  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };

  // A picture as it is shown: small ones enlarged, each pixel a square.
  const savePicture = async (image, name) => {
    const scale = Math.max(1, Math.round(SAVED / image.naturalWidth));
    const canvas = new OffscreenCanvas(image.naturalWidth * scale, image.naturalHeight * scale);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    save(await canvas.convertToBlob(), name);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".bcos-save");
    const figure = button?.closest("figure");
    if (!figure) return;
    if (button.dataset.png) savePicture(figure.querySelector("img"), button.dataset.png);
    else save(new Blob([fileOf(figure)], { type: "application/octet-stream" }), figure.dataset.file);
  });

  // An example is uploaded like any file, instead of one that is there.
  document.addEventListener("click", async (event) => {
    const example = event.target.closest?.(".bcos-example");
    if (!example) return;
    document.querySelector("#bcos-file button[aria-label=Clear]")?.click();
    let input = null;
    for (let tries = 0; tries < 100 && !(input = document.querySelector("#bcos-file input[type=file]")); tries++)
      await new Promise((done) => setTimeout(done, 20));
    const bytes = Uint8Array.from(atob(example.querySelector("img").src.split(",")[1]), (c) => c.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], example.dataset.file));
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
})();
