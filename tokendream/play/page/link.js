// The websocket. It opens again when it is lost; pictures are drawn no faster than the screen shows them.

export class Link {
  /** `on` has: open(), lost(), facts(message), picture(picture). */
  constructor(on) {
    this.on = on;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/ws${location.search}`);
    this.newest = null;
    this.received = 0;
    this.socket.onopen = () => this.on.open();
    this.socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (!message.state) return this.on.facts(message);
      if (this.newest === null) requestAnimationFrame(() => this.draw());
      this.newest = message; // of several that arrive between two drawings the last is drawn
      this.received += 1;
    };
    this.socket.onclose = () => {
      this.on.lost();
      setTimeout(() => this.open(), 1500);
    };
  }

  draw() {
    if (this.newest === null) return; // lost meanwhile: the next one begins with a picture of its own
    const [picture, pictures] = [this.newest, this.received];
    this.newest = null;
    this.received = 0;
    this.on.picture(picture);
    this.send("ack", pictures); // only now: who draws slowly is sent less
  }

  /** A command and its argument, if it has one: see play/commands.py. */
  send(...command) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(command));
  }
}
