"use strict";
// Shows AUs beside the photo or video that they were read from. showResult(place, result, media):
//   result: {aus: ["AU01"], thresholds: [0.5], frames: [{frame, timestamp, faces: [{face, box, landmarks, probabilities,
//   intensities}]}], truth: {AU01: [0, 1, ...]} or none, and size: [width, height] of the picture that boxes refer to}
//   media: an <img> or <video>, or null
// A click on a time line seeks; so do the arrow keys, a frame at a time. Colours are readable without seeing red and green.

const LINE = "#1f5fa8", PRESENT = "#f5b942", TRUTH = "#d5d5d5", INK = "#222";
const NAMES = {1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser", 6: "cheek raiser",
  7: "lid tightener", 9: "nose wrinkler", 10: "upper lip raiser", 12: "lip corner puller", 14: "dimpler",
  15: "lip corner depressor", 17: "chin raiser", 18: "lip pucker", 20: "lip stretcher", 23: "lip tightener",
  24: "lip pressor", 25: "lips part", 26: "jaw drop", 27: "mouth stretch", 43: "eyes closed"};

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function showResult(place, result, media) {
  const frames = result.frames, isVideo = frames.length > 1;
  const faces = [...new Set(frames.flatMap(frame => frame.faces.map(face => face.face)))].sort((a, b) => a - b);
  const times = frames.map(frame => frame.timestamp);
  const end = times.length ? times[times.length - 1] : 0;
  let current = 0, chosen = faces.length ? faces[0] : null;
  place.replaceChildren();

  const canvas = element("canvas", {class: "overlay", "aria-hidden": "true"});
  const picture = element("div", {class: "picture"}, ...(media ? [media, canvas] : []));
  const status = element("p", {class: "status", role: "status"});
  const choice = element("select", {"aria-label": "face"},
    ...faces.map(face => element("option", {value: face}, `face ${face}`)));
  const bars = element("table", {class: "bars"});
  const lines = element("div", {class: "lines"});
  place.append(element("div", {class: "top"}, picture, element("div", {}, status, choice, bars)), lines);
  choice.hidden = faces.length < 2;
  choice.onchange = () => { chosen = Number(choice.value); drawLines(); update(); };

  const rows = result.aus.map((au, index) => {
    const fill = element("div", {class: "fill"}), mark = element("div", {class: "mark"});
    mark.style.left = `${100 * result.thresholds[index]}%`;
    const value = element("td", {class: "value"}), name = element("th", {scope: "row", title: NAMES[Number(au.slice(2))] || ""}, au);
    bars.append(element("tr", {"data-au": au}, name, element("td", {class: "bar"}, fill, mark), value));
    return {fill, value, name};
  });
  const find = index => frames[index] && frames[index].faces.find(face => face.face === chosen);

  function update() {
    const frame = frames[current], face = find(current);
    status.textContent = !frame ? "There are no frames." :
      `${isVideo ? `${frame.timestamp.toFixed(2)} s, frame ${frame.frame}: ` : ""}${
        frame.faces.length ? `${frame.faces.length} face${frame.faces.length > 1 ? "s" : ""}` : "no face"}`;
    rows.forEach((row, index) => {
      const value = face ? face.probabilities[index] : null, isPresent = face && value >= result.thresholds[index];
      row.fill.style.width = `${100 * (value || 0)}%`;
      row.fill.style.background = isPresent ? PRESENT : LINE;
      row.name.className = isPresent ? "present" : "";
      const rating = face && face.intensities && face.intensities[result.aus[index]];
      row.value.textContent = value === null ? "" : value.toFixed(2) + (rating === undefined || rating === null ? "" : ` (${rating.toFixed(1)} of 5)`);
    });
    lines.querySelectorAll(".cursor").forEach(cursor => { cursor.style.left = `${end ? 100 * times[current] / end : 0}%`; });
    drawFaces(frame);
  }

  function drawFaces(frame) {
    if (!media || !frame) return;
    const [width, height] = result.size || [media.naturalWidth || media.videoWidth, media.naturalHeight || media.videoHeight];
    if (!width) return;
    canvas.width = width; canvas.height = height;
    const pen = canvas.getContext("2d");
    pen.lineWidth = Math.max(1, width / 300); pen.font = `${Math.max(12, width / 40)}px system-ui`;
    for (const face of frame.faces) {
      const [left, top, right, bottom] = face.box;
      pen.strokeStyle = pen.fillStyle = face.face === chosen ? PRESENT : "#ffffff";
      pen.strokeRect(left, top, right - left, bottom - top);
      if (faces.length > 1) pen.fillText(`${face.face}`, left, top - 4);
      for (const [x, y] of face.landmarks || []) pen.fillRect(x - pen.lineWidth / 2, y - pen.lineWidth / 2, pen.lineWidth, pen.lineWidth);
    }
  }

  function drawLines() {
    if (!isVideo) return;
    lines.replaceChildren(...result.aus.map((au, index) => {
      const plot = element("canvas", {width: 1000, height: 44}), pen = plot.getContext("2d");
      const step = end / Math.max(1, frames.length - 1), x = time => end ? 1000 * time / (end + step) : 0, y = value => 41 - 38 * value;
      const truth = result.truth && result.truth[au];
      if (truth) { pen.fillStyle = TRUTH; truth.forEach((label, n) => label === 1 && pen.fillRect(x(times[n]), 0, x(step) + 0.5, 44)); }
      pen.fillStyle = PRESENT;
      frames.forEach((frame, n) => { const face = find(n); if (face && face.probabilities[index] >= result.thresholds[index]) pen.fillRect(x(times[n]), 40, x(step) + 0.5, 4); });
      pen.strokeStyle = "#999"; pen.setLineDash([6, 6]); pen.beginPath();
      pen.moveTo(0, y(result.thresholds[index])); pen.lineTo(1000, y(result.thresholds[index])); pen.stroke();
      pen.setLineDash([]); pen.strokeStyle = LINE; pen.lineWidth = 1.6; pen.beginPath();
      let isDown = false;
      frames.forEach((frame, n) => {
        const face = find(n);
        if (!face) { isDown = false; return; }
        if (!isDown) pen.moveTo(x(times[n]) - 0.8, y(face.probabilities[index]));  // so that a single frame is seen
        pen.lineTo(x(times[n]), y(face.probabilities[index]));
        isDown = true;
      });
      pen.stroke();
      const track = element("div", {class: "track", "data-au": au}, plot, element("div", {class: "cursor"}));
      track.onclick = event => seek((end + step) * (event.clientX - track.getBoundingClientRect().left) / track.clientWidth);
      return element("div", {class: "line"}, element("span", {title: NAMES[Number(au.slice(2))] || ""}, au), track);
    }));
  }

  function locate(time) {  // the last frame that begins before `time`
    let low = 0, high = times.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; times[middle] <= time + 1e-3 ? low = middle : high = middle - 1; }
    return low;
  }
  function seek(time) {
    current = locate(time); update();
    if (media && media.tagName === "VIDEO") { media.pause(); media.currentTime = times[current] + 1e-3; }
  }
  function follow() {
    if (!place.contains(media)) return;
    const index = locate(media.currentTime);
    if (index !== current) { current = index; update(); }
    if (!media.paused) requestAnimationFrame(follow);
  }
  if (media && media.tagName === "VIDEO") {
    media.addEventListener("play", follow);
    media.addEventListener("timeupdate", follow);
    media.addEventListener("loadedmetadata", update);
  } else if (media) media.addEventListener("load", update);
  place.tabIndex = 0;
  place.onkeydown = event => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (move && isVideo && event.target === place) { event.preventDefault(); seek(times[Math.max(0, Math.min(frames.length - 1, current + move))]); }
  };
  drawLines(); update();
  return {seek, current: () => current};
}
