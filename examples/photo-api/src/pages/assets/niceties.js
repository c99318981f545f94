// What a page is nicer with and works without.

const image = document.getElementById("image");
const preview = document.getElementById("preview");
image?.addEventListener("change", () => {
  URL.revokeObjectURL(preview.src);
  preview.hidden = !image.files[0];
  if (image.files[0]) preview.src = URL.createObjectURL(image.files[0]);
});

const locate = document.getElementById("locate");
if (locate && navigator.geolocation) {
  locate.hidden = false;
  locate.addEventListener("click", () =>
    navigator.geolocation.getCurrentPosition(
      ({ coords }) => {
        document.getElementById("lat").value = coords.latitude.toFixed(5);
        document.getElementById("lon").value = coords.longitude.toFixed(5);
      },
      () => (locate.textContent = "Your device did not say where it is"),
    ),
  );
}

// Sending twice would post twice.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
