// What the pages share: tiles, and charts: uPlot on the page's colours, a legend in text, arrow keys.
'use strict';

const at = (id) => document.getElementById(id);

// What is not there is a dash, never 0.
function show(value, unit) {
  if (value === null || value === undefined) return '–';
  const number = (v, digits) => v.toLocaleString('en', { maximumFractionDigits: digits });
  if (unit === 'B') return value >= 1e9 ? number(value / 1e9, 2) + ' GB' : number(value / 1e6, 1) + ' MB';
  if (unit === 's') return value < 1 ? number(value * 1e3, 1) + ' ms' : number(value, 1) + ' s';
  return number(value, 0) + unit;
}

const clock = (seconds) => new Date(seconds * 1e3).toLocaleTimeString('en-GB');
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
const DASH = { full: [], dashes: [9, 6], dots: [2, 4] };

function element(tag, classes, text) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A figure among those of now: its value, which says nothing yet.
function tile(name, label) {
  const box = element('div'), value = element('dd', 'absent', '–');
  value.id = 'now-' + name;
  box.append(element('dt', '', label), value);
  at('now').append(box);
  return value;
}

// The charts of a page, each drawn again when its colours change.
function chartsOf(specs, when) {
  const charts = specs.map((spec) => new Chart(spec, at('charts'), when));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => charts.forEach((chart) => chart.plot.redraw()));
  return charts;
}

// Lines: [field of a point, label, colour, line]; line: full, dashes (predicted), dots (a limit). `when` writes a time.
class Chart {
  constructor({ title, unit, lines }, parent, when = clock) {
    this.unit = unit;
    this.lines = lines;
    this.time = when;
    this.columns = [[], ...lines.map(() => [])];
    const figure = element('figure');
    figure.append(element('figcaption', '', title + (unit === '/s' ? ', events/s' : '')));
    const legend = element('ul', 'legend');
    this.values = lines.map(([, label, ink, line]) => {
      const item = element('li', ink + ' ' + line);
      const value = element('span');
      item.append(element('i'), label + ' ', value);
      legend.append(item);
      return value;
    });
    this.when = element('li', 'when');
    legend.append(this.when);
    this.box = element('div', 'plot');
    this.box.tabIndex = 0;
    this.box.setAttribute('role', 'img');
    this.box.setAttribute('aria-label', title + ': the values are in the list above');
    figure.append(legend, this.box);
    parent.append(figure);
    this.plot = new uPlot(this.options(), this.columns, this.box);
    this.box.addEventListener('keydown', (event) => this.key(event));
    this.box.addEventListener('blur', () => this.plot.setCursor({ left: -10, top: -10 }));
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.box);
  }

  size() { return { width: Math.max(200, this.box.clientWidth), height: 200 }; }

  options() {
    // Events are whole; bytes and seconds have their own steps.
    const whole = Array.from({ length: 30 }, (_, n) => [1, 2, 5][n % 3] * 10 ** Math.floor(n / 3));
    const steps = this.unit === 's' || this.unit === 'B' ? {} : { incrs: whole };
    const axis = (values) => ({ stroke: () => colour('quiet'), grid: { stroke: () => colour('line'), width: 1 }, ticks: { show: false }, values });
    return {
      ...this.size(),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
      axes: [
        { ...axis((_, ticks) => ticks.map(this.time)), space: 90, size: 32 },
        { ...axis((_, ticks) => ticks.map((tick) => show(tick, this.unit === '/s' ? '' : this.unit))), size: 72, ...steps },
      ],
      series: [{}, ...this.lines.map(([, , ink, line]) => ({
        stroke: () => colour(ink), width: line === 'full' ? 2 : 1.5, dash: DASH[line], points: { show: false } }))],
      hooks: { setCursor: [() => this.legend()] },
    };
  }

  // Shows the values under the cursor, or else the newest.
  legend() {
    const at = this.plot?.cursor.idx;
    const index = at ?? this.columns[0].length - 1;
    this.when.textContent = at == null ? '' : 'at ' + this.time(this.columns[0][at]);
    this.values.forEach((value, n) => { value.textContent = show(this.columns[n + 1][index], this.unit); });
  }

  key(event) {
    const last = this.columns[0].length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -last, End: last }[event.key];
    if (step === undefined || last < 0) return;
    event.preventDefault();
    const index = Math.min(last, Math.max(0, (this.plot.cursor.idx ?? last) + step));
    this.plot.setCursor({ left: this.plot.valToPos(this.columns[0][index], 'x'), top: 10 });
  }

  clear() { this.columns = this.columns.map(() => []); }

  add(points, most) {
    for (const point of points) {
      this.columns[0].push(point.at);
      this.lines.forEach(([field], n) => this.columns[n + 1].push(point[field] ?? null));
    }
    if (this.columns[0].length > most) this.columns = this.columns.map((column) => column.slice(-most));
    this.plot.setData(this.columns);
    this.legend();
  }
}
