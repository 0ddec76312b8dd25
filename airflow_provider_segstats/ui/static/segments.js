// The page "Segments", and its tab at a DAG run. Written by hand over what Airflow's page brings: React, its router
// and Chakra are globals there, so nothing is built and nothing is loaded from elsewhere.

const { React, ReactRouterDOM, ChakraUI } = globalThis;
const { createElement: h, useCallback, useEffect, useState } = React;
const { Link: RouterLink, useSearchParams } = ReactRouterDOM;
const { Badge, Box, Button, Flex, Heading, Input, Link, NativeSelect, Stack, Table, Text } = ChakraUI;

const BASE = new URL("segstats/api/", document.baseURI);
const PAGE = 50;
const AGAIN = 15_000; // ms between two looks at what runs
const LANGUAGE = navigator.languages?.length ? [...navigator.languages] : undefined;
const COUNT = new Intl.NumberFormat(LANGUAGE);
const SIGNED = new Intl.NumberFormat(LANGUAGE, { signDisplay: "exceptZero" });
const SHARE = new Intl.NumberFormat(LANGUAGE, { style: "percent", maximumFractionDigits: 1, signDisplay: "exceptZero" });
const MOMENT = new Intl.DateTimeFormat(LANGUAGE, { dateStyle: "medium", timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(LANGUAGE, { dateStyle: "medium", timeZone: "UTC" });
const AGO = new Intl.RelativeTimeFormat(LANGUAGE, { numeric: "auto" });

const STATES = {
  counted: { label: "counted", palette: "green" },
  failed: { label: "failed", palette: "red" },
  not_submitted: { label: "not submitted", palette: "orange" },
  missing: { label: "missing", palette: "orange" },
  running: { label: "running", palette: "blue" },
};

const count = (number) => (number === null || number === undefined ? "–" : COUNT.format(number));
const moment = (text) => (text ? MOMENT.format(new Date(text)) : "–");
const day = (text) => (text ? DAY.format(new Date(`${text}T00:00:00Z`)) : "–");

function age(text) {
  if (!text) return "–";
  const seconds = (Date.now() - new Date(text)) / 1000;
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= length) return AGO.format(-Math.round(seconds / length), unit);
  }
  return AGO.format(-Math.round(seconds), "second");
}

const title = ({ kind, id, name }) =>
  name ? `${name} (${kind === "segment" ? "" : `${kind} `}${id})` : `${kind} ${id}`;

/** Ask our app; what it cannot answer comes as the sentence that it says why in. */
async function ask(path, parameters, signal) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  const reply = await fetch(url, { credentials: "same-origin", signal });
  if (reply.ok) return reply.json();
  const said = await reply.json().catch(() => ({}));
  const known = typeof said.detail === "string" ? said.detail : null;
  const meant = { 401: "You are not logged in.", 403: "You may not see this." }[reply.status];
  throw new Error(meant ?? known ?? "Airflow could not answer this. Its API server's log says why.");
}

/** What our app answers, asked anew when the parameters change and, with `again`, while the page is seen. */
function useAnswer(path, parameters, again = 0) {
  const [answer, setAnswer] = useState({ loading: true });
  const key = JSON.stringify(parameters);
  useEffect(() => {
    const leaving = new AbortController();
    let timer;
    const load = async () => {
      try {
        const data = await ask(path, JSON.parse(key), leaving.signal);
        setAnswer({ data });
      } catch (error) {
        if (leaving.signal.aborted) return;
        setAnswer((last) => ({ data: last.data, error: error.message }));
      }
      if (again && !document.hidden && !leaving.signal.aborted) timer = setTimeout(load, again);
    };
    const seen = () => {
      clearTimeout(timer);
      if (again && !document.hidden) load();
    };
    load();
    document.addEventListener("visibilitychange", seen);
    return () => {
      leaving.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [path, key, again]);
  return answer;
}

function Message({ children, tone = "fg.muted" }) {
  return h(Text, { role: "status", color: tone, py: 4 }, children);
}

function State({ state, reason, progress }) {
  const { label, palette } = STATES[state] ?? { label: state, palette: "gray" };
  return h(Stack, { gap: 0 },
    h(Badge, { colorPalette: palette, variant: "subtle", alignSelf: "flex-start" },
      progress === undefined || progress === null ? label : `${label}, ${progress} %`),
    reason && h(Text, { fontSize: "xs", color: "fg.muted", lineClamp: 2, title: reason }, reason));
}

function Change({ value, base }) {
  if (value === null || value === undefined) return h("span", null, "–");
  const before = base === null || base === undefined ? 0 : base - value;
  const share = before ? ` (${SHARE.format(value / before)})` : "";
  return h(Text, { as: "span", whiteSpace: "nowrap", color: value < 0 ? "fg.error" : undefined }, SIGNED.format(value) + share);
}

function Sparkline({ points, label, width = 96, height = 24 }) {
  const there = points.filter((point) => point !== null);
  if (there.length < 2) return null;
  const [low, high] = [Math.min(...there), Math.max(...there)];
  const x = (at) => 1 + (at * (width - 2)) / (points.length - 1);
  const y = (value) => height - 2 - ((value - low) * (height - 4)) / (high - low || 1);
  const path = points.map((value, at) => (value === null ? "" : `${x(at).toFixed(1)},${y(value).toFixed(1)}`)).filter(Boolean);
  return h("svg", { width, height, role: "img", "aria-label": label, viewBox: `0 0 ${width} ${height}` },
    h("polyline", { points: path.join(" "), fill: "none", stroke: "currentColor", strokeWidth: 1.5 }));
}

function Choice({ label, value, options, onChange }) {
  return h(NativeSelect.Root, { size: "sm", width: "auto" },
    h(NativeSelect.Field, { "aria-label": label, value, onChange: (event) => onChange(event.target.value) },
      h("option", { value: "" }, `${label}: all`),
      options.map(([option, text]) => h("option", { key: option, value: option }, text))),
    h(NativeSelect.Indicator));
}

/** A column's head that sorts; the first click sorts as one would want it: names up, numbers down. */
function Head({ column, label, sort, order, onSort, numeric, wide }) {
  const sorted = sort === column ? (order === "desc" ? "descending" : "ascending") : undefined;
  const next = sorted ? (order === "desc" ? "asc" : "desc") : numeric ? "desc" : "asc";
  return h(Table.ColumnHeader, {
    scope: "col", "aria-sort": sorted ?? "none", textAlign: numeric ? "end" : "start",
    display: wide ? { base: "none", md: "table-cell" } : undefined,
  }, h(Button, { variant: "plain", size: "xs", px: 0, fontWeight: "semibold", onClick: () => onSort(column, next) },
    label, h("span", { "aria-hidden": true }, sorted ? (order === "desc" ? " ▼" : " ▲") : "")));
}

function List({ search: parameters, set }) {
  const query = {
    search: parameters.get("search") ?? "",
    account: parameters.get("account") ?? "",
    state: parameters.get("state") ?? "",
    sort: parameters.get("sort") ?? "total",
    order: parameters.get("order") ?? "desc",
    offset: Number(parameters.get("offset") ?? 0),
  };
  const [typed, setTyped] = useState(query.search);
  useEffect(() => setTyped(query.search), [query.search]);
  useEffect(() => {
    if (typed === query.search) return undefined;
    const timer = setTimeout(() => set({ search: typed, offset: "" }), 250);
    return () => clearTimeout(timer);
  }, [typed]);
  const { data, error, loading } = useAnswer("segments", { ...query, limit: PAGE });
  if (error && !data) return h(Message, { tone: "fg.error" }, error);
  if (loading) return h(Message, null, "Loading …");
  const filtered = query.search || query.account || query.state;
  const heads = { sort: query.sort, order: query.order, onSort: (sort, order) => set({ sort, order, offset: "" }) };
  return h(Stack, { gap: 3 },
    h(Flex, { gap: 2, wrap: "wrap", as: "search" },
      h(Input, {
        size: "sm", maxW: "20rem", type: "search", "aria-label": "Search segments by name or id",
        placeholder: "Name or id", value: typed, onChange: (event) => setTyped(event.target.value),
      }),
      data.accounts.length > 1 && h(Choice, {
        label: "Account", value: query.account, options: data.accounts.map((name) => [name, name]),
        onChange: (account) => set({ account, offset: "" }),
      }),
      h(Choice, {
        label: "State", value: query.state,
        options: Object.entries(STATES).filter(([state]) => state !== "running" || data.running).map(([state, { label }]) => [state, label]),
        onChange: (state) => set({ state, offset: "" }),
      })),
    error && h(Message, { tone: "fg.error" }, error),
    data.total === 0
      ? h(Message, null, filtered ? "No segment is like this." : "No segment has been counted yet. The DAG nightly_segment_refresh counts them, segment_report stores the counts.")
      : h(Box, { overflowX: "auto" }, h(Table.Root, { size: "sm", variant: "line" },
        h("caption", { style: { captionSide: "top", textAlign: "start", paddingBlock: 4 } }, `${count(data.total)} ${data.total === 1 ? "segment" : "segments"}`),
        h(Table.Header, null, h(Table.Row, null,
          h(Head, { column: "name", label: "Segment", ...heads }),
          data.accounts.length > 1 && h(Head, { column: "source", label: "Account", wide: true, ...heads }),
          h(Head, { column: "total", label: "Sendable", numeric: true, ...heads }),
          data.channels.map((channel) => h(Head, { key: channel, column: `channel:${channel}`, label: channel, numeric: true, wide: true, ...heads })),
          h(Head, { column: "change", label: "Night", numeric: true, ...heads }),
          h(Head, { column: "week_change", label: "Week", numeric: true, wide: true, ...heads }),
          h(Table.ColumnHeader, { scope: "col", display: { base: "none", md: "table-cell" } }, "Trend"),
          h(Head, { column: "updated", label: "Counted", wide: true, ...heads }),
          h(Head, { column: "state", label: "State", ...heads }))),
        h(Table.Body, null, data.rows.map((row) => h(Table.Row, { key: `${row.source}/${row.kind}/${row.id}` },
          h(Table.Cell, { as: "th", scope: "row", fontWeight: "normal", textAlign: "start", overflowWrap: "anywhere" },
            h(Link, { asChild: true }, h(RouterLink, { to: `?${detail(row)}` }, title(row)))),
          data.accounts.length > 1 && h(Table.Cell, { display: { base: "none", md: "table-cell" } }, row.source),
          h(Table.Cell, { textAlign: "end" }, count(row.total)),
          data.channels.map((channel) => h(Table.Cell, { key: channel, textAlign: "end", display: { base: "none", md: "table-cell" } },
            count(row.channels[channel]))),
          h(Table.Cell, { textAlign: "end" }, h(Change, { value: row.change, base: row.total })),
          h(Table.Cell, { textAlign: "end", display: { base: "none", md: "table-cell" } }, h(Change, { value: row.week_change, base: row.total })),
          h(Table.Cell, { display: { base: "none", md: "table-cell" } },
            h(Sparkline, { points: row.trend, label: `Trend of ${title(row)}: from ${count(row.trend.find((point) => point !== null))} to ${count(row.total)}` })),
          h(Table.Cell, { title: moment(row.updated), display: { base: "none", md: "table-cell" } }, age(row.updated)),
          h(Table.Cell, null, h(State, row))))))),
    data.total > PAGE && h(Pages, { offset: query.offset, total: data.total, onChange: (offset) => set({ offset: offset || "" }) }));
}

function Pages({ offset, total, onChange }) {
  const last = Math.min(offset + PAGE, total);
  return h(Flex, { as: "nav", "aria-label": "Pages", gap: 3, align: "center" },
    h(Button, { size: "xs", variant: "outline", disabled: offset === 0, onClick: () => onChange(Math.max(0, offset - PAGE)) }, "Previous"),
    h(Text, { fontSize: "sm" }, `${count(offset + 1)} to ${count(last)} of ${count(total)}`),
    h(Button, { size: "xs", variant: "outline", disabled: last >= total, onClick: () => onChange(offset + PAGE) }, "Next"));
}

const detail = ({ source, kind, id }) => new URLSearchParams({ account: source, kind, id: String(id), view: "segment" });

const COLOURS = ["#3b82c4", "#d2691e", "#2e8b57", "#a0408f", "#b8860b", "#708090"];

function Trend({ channels, nights }) {
  const names = Object.keys(channels);
  if (nights.length < 2) return h(Message, null, "A trend needs two nights.");
  const [width, height, left, bottom] = [720, 220, 64, 24];
  const top = Math.max(1, ...names.flatMap((name) => channels[name].filter((value) => value !== null)));
  const x = (at) => left + (at * (width - left - 8)) / (nights.length - 1);
  const y = (value) => height - bottom - (value * (height - bottom - 10)) / top;
  return h(Stack, { gap: 1 },
    h("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img",
      "aria-label": `Counts by channel from ${day(nights[0])} to ${day(nights[nights.length - 1])}` },
      [0, top / 2, top].map((value) => h("g", { key: value },
        h("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), stroke: "currentColor", opacity: 0.15 }),
        h("text", { x: left - 6, y: y(value) + 4, textAnchor: "end", fontSize: 12, fill: "currentColor" }, count(Math.round(value))))),
      [0, nights.length - 1].map((at) => h("text", { key: at, x: x(at), y: height - 6, fontSize: 12, fill: "currentColor",
        textAnchor: at ? "end" : "start" }, day(nights[at]))),
      names.map((name, at) => h("polyline", { key: name, fill: "none", strokeWidth: 2, stroke: COLOURS[at % COLOURS.length],
        points: channels[name].map((value, night) => (value === null ? "" : `${x(night)},${y(value)}`)).filter(Boolean).join(" ") }))),
    h(Flex, { gap: 4, wrap: "wrap" }, names.map((name, at) => h(Flex, { key: name, align: "center", gap: 1 },
      h(Box, { "aria-hidden": true, w: 3, h: 1, style: { background: COLOURS[at % COLOURS.length] } }), h(Text, { fontSize: "sm" }, name)))));
}

const runLink = ({ dag_id, run_id }) => `/dags/${encodeURIComponent(dag_id)}/runs/${encodeURIComponent(run_id)}`;

function Segment({ search, set }) {
  const which = { account: search.get("account"), kind: search.get("kind") ?? "segment", id: search.get("id") };
  const days = search.get("days") ?? "90";
  const { data, error, loading } = useAnswer("segment", { ...which, days });
  const back = h(Button, { variant: "plain", size: "sm", alignSelf: "flex-start", px: 0,
    onClick: () => set({ view: "", kind: "", id: "", days: "", account: "" }) }, "← All segments");
  if (error && !data) return h(Stack, null, back, h(Message, { tone: "fg.error" }, error));
  if (loading) return h(Message, null, "Loading …");
  return h(Stack, { gap: 4 }, back,
    h(Flex, { gap: 3, align: "baseline", wrap: "wrap" },
      h(Heading, { size: "lg", as: "h2", overflowWrap: "anywhere" }, title(data)), h(Text, { color: "fg.muted" }, data.source),
      h(State, data),
      data.url && h(Link, { href: data.url, target: "_blank", rel: "noopener noreferrer" }, "On the platform ↗")),
    data.findings.length > 0 && h("ul", { "aria-label": "Findings of the last check", style: { paddingInlineStart: 20 } },
      data.findings.map((line) => h("li", { key: line }, h(Text, { color: "fg.error" }, line)))),
    h(Flex, { gap: 1, role: "group", "aria-label": "Time shown" }, [["30", "30 days"], ["90", "90 days"], ["365", "a year"]].map(([value, label]) =>
      h(Button, { key: value, size: "xs", variant: days === value ? "solid" : "outline", "aria-pressed": days === value,
        onClick: () => set({ days: value }) }, label))),
    h(Trend, { channels: data.channels, nights: data.nights }),
    h(Heading, { size: "sm", as: "h3" }, "Nights"),
    data.outcomes.length === 0 ? h(Message, null, "No night in this time.") :
    h(Box, { overflowX: "auto" }, h(Table.Root, { size: "sm" },
      h(Table.Header, null, h(Table.Row, null, ["Night", "State", "Run"].map((label) => h(Table.ColumnHeader, { key: label, scope: "col" }, label)))),
      h(Table.Body, null, data.outcomes.map((night) => h(Table.Row, { key: `${night.dag_id}/${night.run_id}` },
        h(Table.Cell, null, day(night.night)),
        h(Table.Cell, null, h(State, { state: night.outcome, reason: night.reason })),
        h(Table.Cell, { overflowWrap: "anywhere" }, night.dag_id === null ? "–" : h(Link, { asChild: true }, h(RouterLink, { to: runLink(night) }, night.dag_id)))))))));
}

function Progress({ task }) {
  const { progress } = task;
  const parts = [
    `${count(progress.done)} of ${count(progress.total)} done`,
    progress.under_way ? `${count(progress.under_way)} under way` : "",
    progress.failed ? `${count(progress.failed)} failed` : "",
    progress.percent !== null && progress.percent !== undefined ? `${progress.percent} %` : "",
  ];
  return h(Stack, { gap: 1, borderWidth: "1px", borderRadius: "md", p: 3 },
    h(Link, { asChild: true }, h(RouterLink, { to: runLink(task) }, `${task.dag_id}, ${task.task_id}${task.map_index >= 0 ? ` [${task.map_index}]` : ""}`)),
    h(Box, { role: "progressbar", "aria-label": `Recounts of ${task.task_id}`, "aria-valuemin": 0, "aria-valuemax": progress.total, "aria-valuenow": progress.done,
      h: 2, borderRadius: "full", bg: "bg.muted", overflow: "hidden" },
      h(Box, { h: "100%", bg: "blue.solid", style: { width: `${(100 * progress.done) / (progress.total || 1)}%` } })),
    h(Text, { fontSize: "sm" }, parts.filter(Boolean).join(", ")),
    h(Text, { fontSize: "xs", color: "fg.muted" }, `since ${moment(progress.since)}; written ${age(progress.at)}`));
}

function Running() {
  const { data, error } = useAnswer("running", {}, AGAIN);
  if (error && !data) return h(Message, { tone: "fg.error" }, error);
  if (!data || data.tasks.length === 0) return null;
  return h(Stack, { as: "section", "aria-label": "What runs now", gap: 2 },
    h(Heading, { size: "sm", as: "h2" }, "Running now"),
    data.tasks.map((task) => h(Progress, { key: `${task.dag_id}/${task.run_id}/${task.task_id}/${task.map_index}`, task })));
}

function Night({ night }) {
  const trouble = [...night.failed, ...night.not_submitted.map((line) => ({ ...line, reason: "not submitted" }))];
  return h(Box, { borderWidth: "1px", borderRadius: "md", p: 3 },
    h(Flex, { gap: 3, wrap: "wrap", align: "baseline" },
      h(Text, { fontWeight: "semibold" }, day(night.night)), h(Text, { color: "fg.muted" }, night.source),
      h(Link, { asChild: true }, h(RouterLink, { to: runLink(night) }, night.dag_id))),
    h(Text, { fontSize: "sm" }, [
      `${count(night.counted)} counted`, `${count(night.failed.length)} failed`, `${count(night.not_submitted.length)} not submitted`,
      night.submits === null ? "" : `${count(night.submits)} submits`, night.seconds === null ? "" : `${count(Math.round(night.seconds))} s`,
    ].filter(Boolean).join(", ")),
    trouble.length > 0 && h("ul", { style: { paddingInlineStart: 20, fontSize: "0.85em" } },
      trouble.slice(0, 20).map((line) => h("li", { key: `${line.kind}/${line.id}`, style: { overflowWrap: "anywhere" } }, `${title(line)}: ${line.reason}`))));
}

function Nights() {
  const { data, error } = useAnswer("nights", {});
  if (error || !data || data.nights.length === 0) return null; // the list below says what is wrong, once
  return h(Stack, { as: "section", "aria-label": "The last night", gap: 2 },
    h(Heading, { size: "sm", as: "h2" }, "Last night"),
    data.nights.map((night) => h(Night, { key: `${night.source}/${night.dag_id}`, night })));
}

function Run({ dagId, runId }) {
  const { data, error, loading } = useAnswer("run", { dag_id: dagId, run_id: runId }, AGAIN);
  if (error && !data) return h(Message, { tone: "fg.error" }, error);
  if (loading) return h(Message, null, "Loading …");
  if (data.tasks.length === 0) return h(Message, null, "No task of this run counts segments, or none has begun yet.");
  return h(Stack, { gap: 3, p: 2, "data-segstats": "" }, data.tasks.map((task) => h(Stack, { key: `${task.task_id}/${task.map_index}`, gap: 1 },
    task.progress && h(Progress, { task }),
    task.summary && h(Box, { borderWidth: "1px", borderRadius: "md", p: 3 },
      h(Text, { fontWeight: "semibold" }, task.task_id),
      h(Text, { fontSize: "sm" }, `${count(task.summary.ok)} counted, ${count(task.summary.failed.length)} failed, ${count(task.summary.not_submitted.length)} not submitted, ${count(task.summary.submits)} submits`),
      task.summary.failed.length > 0 && h("ul", { style: { paddingInlineStart: 20, fontSize: "0.85em" } },
        task.summary.failed.slice(0, 50).map(([id, line]) => h("li", { key: id, style: { overflowWrap: "anywhere" } }, `${id}: ${line}`)))))));
}

function Page() {
  const [search, setSearch] = useSearchParams();
  const set = useCallback((changes) => setSearch((last) => {
    const next = new URLSearchParams(last);
    for (const [name, value] of Object.entries(changes)) value === "" ? next.delete(name) : next.set(name, value);
    return next;
  }), [setSearch]);
  return h(Stack, { gap: 5, p: { base: 2, md: 4 }, "data-segstats": "" },
    h(Heading, { size: "xl", as: "h1" }, "Segments"),
    search.get("view") === "segment" ? h(Segment, { search, set })
      : h(React.Fragment, null, h(Running), h(Nights), h(List, { search, set })));
}

function Segments({ dagId, runId }) {
  return runId ? h(Run, { dagId, runId }) : h(Page);
}

// Airflow's page takes the component from the first and, for a second entry of the same name, from the other.
globalThis.AirflowPlugin = Segments;
globalThis.Segments = Segments;
export default Segments;
