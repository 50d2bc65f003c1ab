// The wire of docs/protocol.md over a WebSocket: requests and replies, one subscription, and what it
// takes to keep both through anything: heartbeats, back-off, resuming where it broke off.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const CONNECT_MS = 8_000;
const REPLY_MS = 60_000; // it is there; all of a large market takes its time over a slow line
const MISSED_BEATS = 3;
const SUBSCRIPTION = "market";

export class WireError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * Events: `state` (detail: {state, why, retryAt}), `snapshot` (a subscribe reply's data), `quotes`,
 * `restated`, `heartbeat` (the event documents).
 *
 * States: connecting, live, waiting (broken, tries again at `retryAt`), unauthorized.
 */
export class Wire extends EventTarget {
  #url;
  #socket = null;
  #pending = new Map();
  #id = 0;
  #tries = 0;
  #timer = 0;
  #watch = 0;
  #heardAt = 0;
  #muteMs = 15_000;
  #token = null;
  #known = null; // how far we are: {epoch, instance}
  #why = "";

  received = { messages: 0, bytes: 0 };
  state = "connecting";

  constructor(url) {
    super();
    this.#url = url;
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.state === "waiting") this.retry();
    });
  }

  start() {
    this.#connect();
  }

  /** Try at once, if it is waiting to. */
  retry() {
    if (this.state !== "waiting") return;
    this.#connect();
  }

  /** Show this token from now on. */
  authorize(token) {
    this.#token = token;
    this.#tries = 0;
    this.#connect();
  }

  /** Ask for something; the promise fails when the connection does. */
  request(type, fields = {}) {
    const id = (this.#id += 1);
    return new Promise((resolve, reject) => {
      if (this.#socket === null || this.#socket.readyState !== WebSocket.OPEN) {
        reject(new WireError("CLOSED", "not connected"));
        return;
      }
      this.#pending.set(id, { resolve, reject });
      this.#send({ v: 1, id, type, ...fields });
    });
  }

  #send(document) {
    this.#socket.send(JSON.stringify(document));
  }

  #become(state, why = "", retryAt = 0) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, why, retryAt } }));
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#drop();
    this.#why = "";
    this.#become("connecting");
    let socket;
    try {
      socket = new WebSocket(this.#url);
    } catch (error) {
      this.#broken(String(error.message));
      return;
    }
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#heard(event.data);
    socket.onclose = () => {
      if (socket === this.#socket) this.#broken(this.#why || "the daemon does not answer");
    };
    this.#timer = setTimeout(() => this.#broken("the daemon does not answer"), CONNECT_MS);
  }

  async #opened() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#broken("the daemon does not answer"), REPLY_MS);
    this.#heardAt = performance.now();
    try {
      // Both are sent before the first reply comes: no round trip is spent on the token.
      const authorized = this.#token === null ? null : this.request("auth", { token: this.#token });
      const subscribed = this.#subscribe();
      subscribed.catch(() => undefined);
      await authorized;
      await subscribed;
    } catch (error) {
      if (error.code === "CLOSED") return;
      if (error.code === "UNAUTHORIZED") {
        const shown = this.#token !== null;
        this.#token = null;
        clearTimeout(this.#timer);
        this.#drop();
        this.#become("unauthorized", shown ? error.message : "");
        return;
      }
      this.#broken(error.message);
    }
  }

  #subscribe() {
    const since =
      this.#known === null
        ? {}
        : { since_epoch: this.#known.epoch, instance: this.#known.instance };
    const reply = new Promise((resolve, reject) => {
      this.#pending.set(SUBSCRIPTION, { resolve, reject, isSubscribe: true });
    });
    this.#send({ v: 1, id: SUBSCRIPTION, type: "subscribe", tickers: "*", ...since });
    return reply;
  }

  #heard(text) {
    this.#heardAt = performance.now();
    this.received.messages += 1;
    this.received.bytes += text.length;
    let document;
    try {
      document = JSON.parse(text);
    } catch {
      this.#broken("the daemon said something that is no JSON");
      return;
    }
    if (document.type === "event") {
      if (this.#known !== null) this.#known.epoch = document.epoch;
      this.dispatchEvent(new CustomEvent(document.op, { detail: document }));
      return;
    }
    const waiting = this.#pending.get(document.id);
    this.#pending.delete(document.id);
    if (document.type === "error") {
      this.#why = document.error.message;
      if (waiting !== undefined) {
        waiting.reject(new WireError(document.error.code, document.error.message));
      }
      return;
    }
    if (waiting === undefined) return;
    if (waiting.isSubscribe) this.#subscribed(document.data);
    waiting.resolve(document.data);
  }

  // In the same turn as the reply is read: the events behind it are to find it applied.
  #subscribed(data) {
    clearTimeout(this.#timer);
    this.#tries = 0;
    this.#why = "";
    this.#known = { epoch: data.epoch, instance: data.instance };
    this.#muteMs = data.heartbeat_s * 1000 * MISSED_BEATS;
    this.#watch = setInterval(() => this.#lookForBeats(), 1000);
    this.dispatchEvent(new CustomEvent("snapshot", { detail: data }));
    this.#become("live");
  }

  #lookForBeats() {
    if (performance.now() - this.#heardAt > this.#muteMs) {
      this.#broken(`nothing heard for ${Math.round(this.#muteMs / 1000)} s`);
    }
  }

  #broken(why) {
    clearTimeout(this.#timer);
    this.#drop();
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#tries);
    const wait = longest * (0.75 + Math.random() / 4);
    this.#tries += 1;
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#become("waiting", why, Date.now() + wait);
  }

  #drop() {
    clearInterval(this.#watch);
    const socket = this.#socket;
    this.#socket = null;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const one of pending) one.reject(new WireError("CLOSED", "the connection is gone"));
  }
}
