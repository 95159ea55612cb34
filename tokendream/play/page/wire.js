// Binary messages into pictures: a safetensors file, deflated; its metadata's `state` is JSON. See play/wire.py.

const KINDS = { U8: Uint8Array, I32: Int32Array, F32: Float32Array };

/** A message's bytes as {state, arrays}; each array is {data, shape}. */
export async function unpack(bytes) {
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [from, to] = entry.data_offsets.map((offset) => offset + 8 + length);
    arrays[name] = { data: new KINDS[entry.dtype](buffer.slice(from, to)), shape: entry.shape };
  }
  return { state: JSON.parse(header.__metadata__.state), arrays };
}

/** A websocket that opens again when it is lost. `on` has: open(), text(object), picture(picture), lost(). */
export class Link {
  constructor(on) {
    this.on = on;
    this.received = 0;
    this.newest = null;
    this.drawing = false;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = (this.socket = new WebSocket(`${scheme}://${location.host}/ws${location.search}`));
    socket.binaryType = "arraybuffer";
    this.received = 0;
    this.newest = null;
    socket.onopen = () => this.on.open();
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") return this.on.text(JSON.parse(data));
      this.received += 1;
      this.newest = data; // of several that arrive between two drawings the last is drawn
      this.schedule();
    };
    socket.onclose = () => {
      this.on.lost();
      setTimeout(() => this.open(), 1500);
    };
  }

  /** Draw what is newest in the next animation frame; one drawing at a time, else an older picture may come last. */
  schedule() {
    if (this.drawing || this.newest === null) return;
    this.drawing = true;
    requestAnimationFrame(async () => {
      try {
        await this.draw(this.socket);
      } finally {
        this.drawing = false;
        this.schedule();
      }
    });
  }

  async draw(socket) {
    const data = this.newest;
    this.newest = null;
    if (data === null) return;
    const picture = await unpack(data);
    if (socket !== this.socket) return; // lost meanwhile: the next one begins with a picture of its own
    this.on.picture(picture);
    const pictures = this.received;
    this.received = 0;
    if (pictures > 0) this.send({ do: "ack", pictures }); // only now: who draws slowly is sent less
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}
