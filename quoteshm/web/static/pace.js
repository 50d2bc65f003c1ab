// What comes many times a second is shown a few times a second: nobody reads faster, and each time
// costs the browser a layout and a picture.

const PACE_MS = 200;

/** Make a function that does something at once, or as soon as it was not done for a while. */
export function paced(act) {
  let doneAt = -Infinity;
  let timer = 0;
  const run = () => {
    timer = 0;
    doneAt = performance.now();
    act();
  };
  return () => {
    if (timer !== 0) return;
    const wait = doneAt + PACE_MS - performance.now();
    if (wait <= 0) run();
    else timer = setTimeout(run, wait);
  };
}
