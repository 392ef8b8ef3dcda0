const CONTROL = 0xb0; // status bytes of MIDI messages, without the channel
const NOTE_ON = 0x90;
const CONTROLLERS = 120; // messages with higher numbers set modes, such as "all notes off"

/** Let a button connect all MIDI inputs; it stays hidden in browsers that do not support MIDI.
 *
 * `oncontrol` receives the value of any controller that is moved, 0 to 1, and `onnote` is called when a note begins. */
export function setUpMidi(button, oncontrol, onnote) {
  if (!navigator.requestMIDIAccess) return;
  button.hidden = false;
  button.onclick = async () => {
    try {
      const access = await navigator.requestMIDIAccess();
      const connect = () => {
        const inputs = [...access.inputs.values()];
        for (const input of inputs) input.onmidimessage = ({ data }) => receive(data, oncontrol, onnote);
        const names = inputs.map((input) => input.name).join(", ");
        button.textContent = names ? `MIDI: ${names}` : "MIDI: connect a device";
      };
      access.onstatechange = connect;
      connect();
    } catch {
      button.textContent = "MIDI: not allowed by the browser";
    }
  };
}

function receive([status, number, value], oncontrol, onnote) {
  if ((status & 0xf0) === CONTROL && number < CONTROLLERS) oncontrol(value / 127);
  if ((status & 0xf0) === NOTE_ON && value > 0) onnote();
}
