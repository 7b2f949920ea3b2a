"use strict";
const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;
let current = "";

function show(text, share) {
  $("state").hidden = false;
  $("step").textContent = text;
  if (share === null) $("progress").removeAttribute("value");
  else $("progress").value = share;
}

function problem(text) {
  $("state").hidden = true;
  $("problem").hidden = !text;
  $("problem").textContent = text;
  $("send").disabled = false;
}

function dropped(event) {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length === 1) $("study").files = event.dataTransfer.files;
  else problem("One file is one study; pack a folder as a zip.");
}

function send(event) {
  event.preventDefault();
  problem("");
  $("result").hidden = true;
  if (!$("study").files.length) {
    problem("Choose a study first: .zip, .nii or .nii.gz.");
    $("study").focus();
    return;
  }
  const limit = Number(document.body.dataset.limitMb);
  if ($("study").files[0].size > limit * 1048576) {
    problem(`The study is larger than the ${limit} MB that are taken.`);
    return;
  }
  $("send").disabled = true;
  const body = new FormData();
  body.append("study", $("study").files[0]);
  if ($("mask").files.length) body.append("mask", $("mask").files[0]);
  body.append("phase", $("phase").value);
  const request = new XMLHttpRequest();
  request.open("POST", "studies");
  request.setRequestHeader("X-Assess-Token", token);
  request.upload.onprogress = (sent) => {
    const share = Math.round((100 * sent.loaded) / sent.total);
    show(share < 100 ? `Sending the study, ${share} %` : "Unpacking the study", share < 100 ? share : null);
  };
  request.onerror = () => problem("The server does not answer, or the study is larger than it takes.");
  request.onload = () => {
    if (request.status !== 202) return problem(request.responseText);
    current = JSON.parse(request.responseText).study;
    follow(current);
  };
  show("Sending the study", 0);
  request.send(body);
}

async function follow(key) {
  while (key === current) {
    let answer;
    try {
      answer = await fetch(`studies/${key}`);
    } catch (error) {
      return problem("The server does not answer.");
    }
    if (!answer.ok) return problem(await answer.text());
    const said = await answer.json();
    if (said.state === "refused") return problem(said.reason);
    if (said.state === "done") return done(key, said);
    show(`${said.step[0].toUpperCase()}${said.step.slice(1)}, ${Math.round(said.seconds)} s`, null);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

function done(key, said) {
  $("state").hidden = true;
  $("send").disabled = false;
  $("open").href = $("page").src = `studies/${key}/assessment.html`;
  $("files").replaceChildren();
  for (const name of said.files.filter((file) => file !== "assessment.html")) {
    const link = document.createElement("a");
    link.href = `studies/${key}/${name}?save`;
    link.textContent = name;
    $("files").append(link);
  }
  $("result").hidden = false;
  $("found").textContent = `Assessment, ${Math.round(said.seconds)} s`;
  $("found").focus();
}

async function forget() {
  await fetch(`studies/${current}`, { method: "DELETE", headers: { "X-Assess-Token": token } });
  current = "";
  $("page").removeAttribute("src");
  $("result").hidden = true;
  $("form").reset();
  $("study").focus();
}

$("form").addEventListener("submit", send);
$("forget").addEventListener("click", forget);
for (const name of ["dragover", "dragenter"]) {
  $("drop").addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", dropped);
