// Asks /forecast whenever a slider moves, and shows the answer.
'use strict';

const TILES = [
  ['lag_peak', 'Largest lag'], ['wait_peak', 'Longest wait'], ['queue_sojourn', 'Of it in the processor'],
  ['rss_peak', 'Resident at most'], ['killed_at', 'Killed at'], ['drain', 'Backlog gone after'],
];
const CHARTS = [
  { title: 'Rates', unit: '/s', lines: [
    ['offered_model', 'offered', 'quiet', 'dashes'], ['ceiling_model', 'ceiling', 'ink', 'dots'],
    ['produced', 'produced', 'blue', 'full'], ['delivered', 'delivered', 'green', 'full']] },
  { title: 'Consumer lag', unit: '', lines: [
    ['lag_model', 'predicted', 'ink', 'dashes'], ['lag', 'measured', 'blue', 'full']] },
  { title: 'Queue in the processor', unit: '', lines: [
    ['queue_model', 'predicted', 'ink', 'dashes'], ['queue', 'measured', 'blue', 'full']] },
  { title: 'Memory of the processor', unit: 'B', lines: [
    ['rss_model', 'predicted', 'ink', 'dashes'], ['memory_limit', 'limit', 'purple', 'dots'], ['rss', 'measured', 'blue', 'full']] },
  { title: 'Wait, from due to acked', unit: 's', lines: [
    ['wait_model', 'predicted', 'ink', 'dashes'], ['p50', 'measured p50', 'vermilion', 'full'], ['p99', 'measured p99', 'blue', 'full']] },
];
// Each slider goes by ratios from `least` to `most`; `put` says what it makes of the flags.
const SLIDERS = [
  { id: 'offered', label: 'Offered in the busiest step, events/s', least: 10, most: 1e7,
    put: (value) => ({ schedule: [busiest(value)] }) },
  { id: 'ceiling', label: 'The sink’s ceiling, tokens/s', least: 10, most: 1e7,
    put: (value) => ({ 'rate-limit': [String(value)] }) },
  { id: 'capacity', label: 'Capacity of a bounded queue, events', least: 1, most: 1e7,
    put: (value) => ({ 'queue-cap': [String(Math.round(value))] }) },
  { id: 'memory', label: 'Memory limit, MiB (empty: none)', least: 32, most: 1 << 20,
    put: (value) => ({ 'memory-limit': value === null ? undefined : [Math.round(value * 1048576) + 'B'] }) },
  { id: 'stall', label: 'Stall of the sink, s (0: none)', least: 1, most: 7200,
    put: (value) => {
      const all = (value > 0 ? [stalled(value)] : []).concat((first.stall ?? []).slice(1));
      return { stall: all.length > 0 ? all : undefined };
    } },
];
const STEPS = 1000;

let flags = null, first = null, stands = null, wanted = null, asking = false;
// Which steps of the schedule the slider of the load moves: those that were the busiest at first.
let busy = null;

// 12:05, or 3:00:00 from an hour on.
function elapsed(seconds) {
  const two = (n) => String(Math.floor(n)).padStart(2, '0');
  const hours = Math.floor(seconds / 3600);
  return (hours > 0 ? hours + ':' + two(seconds / 60 % 60) : Math.floor(seconds / 60)) + ':' + two(seconds % 60);
}

// A time as the flags take it: they know no fractions.
const time = (seconds) => Number.isInteger(seconds) ? seconds + 's' : Math.round(seconds * 1e6) + 'us';

// The schedule with another rate in its busy steps.
function busiest(value) {
  return stands.steps.map(([rate, length], n) => (busy[n] ? value : rate) + ':' + time(length)).join(',');
}

// The first stall, longer or shorter; where there was none, a full stop halfway.
function stalled(value) {
  const half = stands.steps.reduce((sum, [, length]) => sum + length, 0) / 2;
  const known = first.stall?.[0] ?? '0@' + time(half) + ':1s';
  return known.replace(/:[^:]*$/, ':' + time(value));
}

// Two digits are enough to slide by.
const rounded = (value) => Number(value.toPrecision(2));
const position = ({ least, most }, stand) => stand <= 0 ? 0 : Math.round(STEPS * Math.log(stand / least) / Math.log(most / least));
const value = ({ id, least, most }, n) => id === 'stall' && n === 0 ? 0 : rounded(least * (most / least) ** (n / STEPS));

for (const slider of SLIDERS) {
  const label = element('label', '', slider.label + ' '), range = element('input'), number = element('input');
  Object.assign(range, { type: 'range', min: 0, max: STEPS, id: slider.id + '-slider' });
  Object.assign(number, { type: 'number', min: 0, step: 'any', id: slider.id });
  for (const input of [range, number]) input.setAttribute('aria-label', slider.label);
  label.append(range, number);
  at('sliders').insertBefore(label, at('queue').parentNode);
  range.addEventListener('input', () => {
    if (stands === null) return;
    number.value = value(slider, Number(range.value));
    change(slider.put(Number(number.value)));
  });
  number.addEventListener('change', () => {
    if (stands === null || !number.reportValidity()) return;
    if (number.value === '' && slider.id !== 'memory') return show_stands();
    change(slider.put(number.value === '' ? null : Number(number.value)));
  });
}
for (const id of ['queue', 'policy']) at(id).addEventListener('change', () => flags !== null && change({ [id]: [at(id).value] }));
at('sliders').addEventListener('submit', (event) => event.preventDefault());
at('reset').addEventListener('click', () => first !== null && ask(flags = first));

const tiles = new Map(TILES.map(([name, label]) => [name, tile(name, label)]));
const charts = chartsOf(CHARTS, elapsed);

function change(changed) {
  const next = { ...flags, ...changed };
  flags = Object.fromEntries(Object.entries(next).filter(([, values]) => values !== undefined));
  ask(flags);
}

// One question at a time; of those that come meanwhile the last.
async function ask(question) {
  wanted = question;
  if (asking) return;
  asking = true;
  while (wanted !== null) {
    const now = wanted;
    wanted = null;
    try {
      const options = { cache: 'no-store', signal: AbortSignal.timeout(10000) };
      if (now !== undefined) Object.assign(options, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(now) });
      const response = await fetch('/forecast', options);
      if (!response.ok) throw new Error((await response.text()).trim());
      take(await response.json());
      state('predicted', 'good');
    } catch (why) {
      state('not predicted: ' + why.message, 'bad');
    }
  }
  asking = false;
}

function state(text, kind) {
  at('state').textContent = text;
  at('state').className = kind;
}

function take(answer) {
  first ??= answer.flags;
  flags ??= answer.flags;
  stands = answer.stands;
  busy ??= stands.steps.map(([rate]) => rate === stands.offered);
  stands.offered = stands.steps[busy.indexOf(true)][0];
  at('given').textContent = answer.given;
  at('command').textContent = answer.command;
  at('name').textContent = 'predicted' + (answer.beside ? ', beside ' + answer.beside : '');
  at('beside').textContent = answer.beside ? 'Full: measured in ' + answer.beside + '.' : '';
  const said = new Map(answer.figures.map(({ name, says }) => [name, says]));
  for (const [name, shown] of tiles) {
    shown.textContent = said.get(name) ?? '–';
    shown.className = said.has(name) ? '' : 'absent';
  }
  const rows = answer.figures.map(({ name, says, because }) => {
    const row = element('tr');
    row.append(element('td', '', name), element('td', '', says), element('td', '', because));
    return row;
  });
  at('figures').tBodies[0].replaceChildren(...rows);
  const moments = answer.moments.map(({ at, predicted, measured }) => ({ ...measured, ...predicted, at }));
  for (const chart of charts) {
    chart.clear();
    chart.add(moments, Infinity);
  }
  show_stands();
}

// Where the sliders stand; the one that is held is left to its hand.
function show_stands() {
  for (const slider of SLIDERS) {
    const stand = stands[slider.id], range = at(slider.id + '-slider'), number = at(slider.id);
    if (document.activeElement !== range) range.value = stand === null ? STEPS : position(slider, stand);
    if (document.activeElement !== number) number.value = stand === null ? '' : Number(stand.toFixed(6));
  }
  at('queue').value = flags.queue?.[0] ?? 'bounded';
  at('policy').value = flags.policy?.[0] ?? 'buffer';
  at('capacity').disabled = at('capacity-slider').disabled = at('queue').value !== 'bounded';
}

ask(undefined);
