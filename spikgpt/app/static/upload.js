// Upload one file directly to the folder of the session. Gradio runs this script with `element`, `props` and `watch`.
const zone = element.querySelector(".sg-zone");
const input = element.querySelector("input");
const shown = element.querySelector(".sg-file");
const bar = element.querySelector("progress");
const remove = element.querySelector(".sg-remove");
const most = Number(zone.dataset.most);
let request = null;

function show(state, text) {
  zone.dataset.state = state;
  shown.textContent = text;
  bar.hidden = state !== "sending";
  remove.hidden = state !== "ready" && state !== "sending";
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function address(name) {
  return `upload?session=${encodeURIComponent(props.value)}&name=${encodeURIComponent(name)}`;
}

function send(file) {
  if (!props.value) {
    setTimeout(() => send(file), 100); // the server has not named the session yet
    return;
  }
  if (request) request.abort();
  if (file.size > most) {
    show("failed", `The file has ${size(file.size)}; expected at most ${size(most)} (--max-mb).`);
    return;
  }
  const sending = (request = new XMLHttpRequest());
  show("sending", file.name);
  bar.value = 0;
  sending.upload.onprogress = (event) => (bar.value = event.loaded / Math.max(1, event.total));
  sending.onload = () => {
    request = null;
    let answer = {};
    try {
      answer = JSON.parse(sending.responseText);
    } catch {}
    if (sending.status === 200) show("ready", `${file.name}, ${size(file.size)}`);
    else show("failed", answer.error || sending.responseText || `The upload failed (${sending.status}).`);
  };
  sending.onerror = () => {
    request = null;
    show("failed", "The upload failed: the server cannot be reached.");
  };
  sending.open("POST", address(file.name));
  sending.setRequestHeader("Content-Type", "application/octet-stream");
  sending.send(file);
}

input.addEventListener("change", () => {
  if (input.files.length) send(input.files[0]);
  input.value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  zone.addEventListener(kind, (event) => {
    event.preventDefault();
    zone.classList.add("sg-over");
  });
}
for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("sg-over"));
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
remove.addEventListener("click", () => {
  if (request) request.abort();
  request = null;
  fetch(address(""), { method: "DELETE" });
  show("empty", "");
});
