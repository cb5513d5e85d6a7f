// Asks /live once an interval for what is new and shows it; sends chaos to /chaos.
'use strict';

const TILES = [
  ['offered', 'Offered', '/s'], ['produced', 'Produced', '/s'], ['polled', 'Polled', '/s'],
  ['delivered', 'Delivered', '/s'], ['queue', 'Queue', ''], ['lag', 'Lag', ''], ['rss', 'Resident', 'B'],
  ['heap', 'Heap in use', 'B'], ['p50', 'Latency p50', 's'], ['p99', 'Latency p99', 's'],
];
const CHARTS = [
  { title: 'Rates', unit: '/s', lines: [
    ['offered', 'offered', 'quiet', 'full'], ['produced', 'produced', 'blue', 'full'],
    ['polled', 'polled', 'vermilion', 'full'], ['delivered', 'delivered', 'green', 'full'],
    ['limit', 'sink’s limit', 'ink', 'dots']] },
  { title: 'Consumer lag', unit: '', lines: [
    ['lag', 'lag', 'blue', 'full'], ['lag_model', 'predicted', 'ink', 'dashes']] },
  { title: 'Queue in the processor', unit: '', lines: [
    ['queue', 'queued', 'blue', 'full'], ['queue_model', 'predicted', 'ink', 'dashes']] },
  { title: 'Memory of the processor', unit: 'B', lines: [
    ['rss', 'resident', 'blue', 'full'], ['heap', 'heap in use', 'vermilion', 'full']] },
  { title: 'End-to-end latency, last 10 s', unit: 's', lines: [
    ['p99', 'p99', 'blue', 'full'], ['p50', 'p50', 'vermilion', 'full'], ['wait_model', 'predicted', 'ink', 'dashes']] },
];
const STATES = { holds: '✓ holds', off: '✗ off', open: '… not yet' };
// Looks that may be missing before the page says that it is stale.
const LATE = 3;

let busy = false, watch = null, last = 0, interval = 1, newest = null, answered = performance.now(), behind = 0, troubled = false;
const tiles = new Map(TILES.map(([field, label, unit]) => [field, { value: tile(field, label), unit }]));
const charts = chartsOf(CHARTS);

function begin(answer) {
  watch = answer.watch;
  last = 0;
  newest = null;
  charts.forEach((chart) => chart.clear());
}

function take(answer) {
  interval = answer.interval_s;
  at('name').textContent = answer.name;
  document.title = answer.name + ', live';
  const left = answer.left_s === null ? '' : ', ' + Math.ceil(answer.left_s) + ' s left';
  at('phase').textContent = (answer.phase ?? '') + left;
  at('chaos').hidden = !answer.chaos;
  at('token-label').hidden = !answer.token;
  const amiss = answer.unread.map((what) => 'unread: ' + what).concat(answer.notes).join('; ');
  troubled = amiss !== '';
  at('unread').hidden = !troubled;
  if (at('unread').textContent !== amiss) at('unread').textContent = amiss;
  if (answer.points.length > 0) {
    newest = answer.points[answer.points.length - 1];
    last = newest.seq;
    charts.forEach((chart) => chart.add(answer.points, answer.points_max));
  }
  behind = newest === null ? 0 : answer.now - newest.at;
  for (const [field, { value, unit }] of tiles) {
    const figure = newest?.[field] ?? null;
    value.textContent = show(figure, unit);
    value.className = figure === null ? 'absent' : '';
  }
  judge(answer.verdicts);
}

function judge(verdicts) {
  const table = at('verdicts');
  table.hidden = verdicts === null;
  at('verdicts-note').textContent = verdicts === null
    ? 'No plan, so nothing to compare with: start the watch with --plan, or beside a plan.json.'
    : 'The experiment’s own checks on what was seen so far, every sample of a short run, every second or fourth of a long one. They may still turn: the report has the last word.';
  const rows = (verdicts ?? []).map((check) => {
    const row = element('tr', check.state), what = element('td', '', check.question);
    what.append(element('small', '', check.name));
    row.append(element('td', '', STATES[check.state]), what,
      element('td', '', check.measured ?? '–'), element('td', '', check.wanted));
    return row;
  });
  table.tBodies[0].replaceChildren(...rows);
}

// The page's own clock and the watch's: either may stand still.
function freshness(failure) {
  const silent = (performance.now() - answered) / 1e3;
  const age = Math.max(silent, behind);
  let text = 'live', kind = 'good';
  if (failure && silent > interval) {
    text = 'stale: no answer from the watch for ' + Math.round(silent) + ' s; it has ended, or the next arm has not begun';
    kind = 'bad';
  } else if (age > LATE * interval) {
    text = 'stale: the newest look is ' + Math.round(age) + ' s old';
    kind = 'bad';
  } else if (newest === null) {
    text = 'waiting for the first look';
    kind = 'wait';
  } else if (troubled) {
    text = 'live, but for what is said below';
    kind = 'wait';
  }
  document.body.classList.toggle('stale', kind === 'bad');
  if (at('state').textContent !== text) at('state').textContent = text;
  at('state').className = kind;
}

async function ask() {
  let failure = false;
  try {
    const options = { cache: 'no-store', signal: AbortSignal.timeout(5000) };
    const response = await fetch('/live?since=' + last, options);
    if (!response.ok) throw new Error('status ' + response.status);
    const answer = await response.json();
    answered = performance.now();
    if (watch !== answer.watch) {
      // Another watch, such as the next arm's: its points start anew.
      const known = last;
      begin(answer);
      if (known > 0) return setTimeout(ask, 0);
    }
    take(answer);
  } catch (_) {
    failure = true;
  }
  freshness(failure);
  return setTimeout(ask, Math.max(200, interval * 1e3));
}

async function disturb(command) {
  if (busy) return;
  busy = true;
  const headers = { 'Content-Type': 'application/json' };
  if (at('token').value) headers.Authorization = 'Bearer ' + at('token').value;
  at('done').textContent = 'asking the sink';
  try {
    const response = await fetch('/chaos', { method: 'POST', headers, body: JSON.stringify(command), signal: AbortSignal.timeout(10000) });
    const text = await response.text();
    if (!response.ok) throw new Error(text.trim());
    const { rate, base_rate, fault } = JSON.parse(text);
    const until = fault && clock(Date.now() / 1e3 + fault.left_seconds);
    at('done').textContent = fault
      ? `${fault.kind}: ${show(rate, '')} tokens/s of ${show(base_rate, '')} until ${until}`
      : `no fault: ${show(rate, '')} tokens/s`;
  } catch (why) {
    at('done').textContent = 'not done: ' + why.message;
  }
  busy = false;
}

// A field that is empty or out of its range is pointed at, not sent.
const valid = (...ids) => ids.every((id) => at(id).reportValidity() && at(id).value !== '');
const time = () => at('time').value + 's';
at('stall').addEventListener('click', () => valid('rate', 'time') && disturb({ do: 'stall', rate: Number(at('rate').value), for: time() }));
at('pause').addEventListener('click', () => valid('time') && disturb({ do: 'pause', for: time() }));
at('restore').addEventListener('click', () => disturb({ do: 'restore' }));
ask();
