import { useComputed } from '@preact/signals'
import { Chart } from '../Chart'
import { PauseAct } from '../acts'
import { Legend, Skyline } from '../Skyline'
import { Age, Clock, Code, type Column, Command, Table, Wrong, useAsked } from '../parts'
import { chosen, clock, ends, many, outcome, score, seconds, share } from '../format'
import { route, toHost, toMachine, turn } from '../route'
import { type Measure, MEASURES, type Sort, bars, order, top, unheard, usualSort } from '../sky'
import { type Host, hosts, me, now, past, silent, summary } from '../store'
import type { Attention, History, Moving } from '../types'

const NAMES: Record<Measure, string> = {
  load: 'Load',
  cpu: 'CPU',
  memory: 'Memory',
  io: 'I/O',
  waiting: 'Waiting',
}

export function Cluster() {
  const said = summary.value
  if (!said) return <p class="dim">Asking the hosts…</p>
  const { query } = route.value
  const measure = (query.get('by') as Measure) || 'load'
  const sort = (query.get('sort') as Sort) || usualSort(hosts.value.size)
  return (
    <>
      <Says />
      <NeedsYou items={said.attention} more={said.attention_more} />
      <section class="card" aria-labelledby="hosts">
        <div class="tools">
          <h2 id="hosts">Hosts</h2>
          <span class="grow" />
          <div class="choices" role="group" aria-label="What is shown">
            {MEASURES.map((one, i) => (
              <button
                key={one}
                type="button"
                aria-pressed={one === measure}
                title={`key ${i + 1}`}
                onClick={() => turn({ by: one === 'load' ? null : one })}
              >
                {NAMES[one]}
              </button>
            ))}
          </div>
          <label>
            sorted by{' '}
            <select value={sort} onChange={(e) => turn({ sort: e.currentTarget.value })}>
              <option value="name">name</option>
              <option value="load">load</option>
              <option value="waiting">waiting</option>
            </select>
          </label>
          <button
            type="button"
            aria-pressed={query.get('view') === 'table'}
            title="key t"
            onClick={() => turn({ view: query.get('view') === 'table' ? null : 'table' })}
          >
            As a table
          </button>
        </div>
        {query.get('view') === 'table' ? <Hosts measure={measure} /> : <Sky measure={measure} sort={sort} />}
      </section>
      <Past />
      <div class="columns">
        <Moves />
        <Lately />
        <section class="card" aria-labelledby="fullest">
          <h2 id="fullest">Fullest hosts</h2>
          <Hosts measure={measure} most={6} />
        </section>
      </div>
    </>
  )
}

function Says() {
  const said = summary.value!
  const modes = Object.entries(said.modes)
  const versions = Object.entries(said.versions)
  return (
    <div class="say">
      <h1>{said.sentence}</h1>
      <p class="dim">
        {many(said.machines, 'machine')} on {said.heard} of {many(said.hosts, 'host')} ·{' '}
        waiting {score(said.waiting)} of 100
        {said.worst && (
          <>
            , worst <a href={toMachine(said.worst[0], said.worst[1])}>{said.worst[0]}</a> on{' '}
            {said.worst[1]} with {said.worst[2]}
          </>
        )}{' '}
        · {modes.map(([mode, count]) => (modes.length > 1 ? `${count} ${mode}` : mode)).join(', ') || 'no mode known'}
        {versions.length > 1 && ` · ${versions.map(([version, count]) => `${count} of ${version}`).join(', ')}`}
      </p>
      {!me.value?.recorded && <div class="steps"><PauseAct paused={said.pause !== null} /></div>}
      {said.pause && (
        <p>
          ‖ Paused until {clock(said.pause.until, now.value)} by {said.pause.by}
          {said.pause.reason && `: ${said.pause.reason}`}
        </p>
      )}
    </div>
  )
}

const SHOWN = 3
const MARKS: Record<Attention['kind'], string> = {
  handoff: '▲',
  silent: '?',
  starving: '▲',
  drain: '⇣',
  unknown: '?',
  recommended: '→',
}

function NeedsYou({ items, more }: { items: Attention[]; more: number }) {
  const all = route.value.query.get('needs') === 'all'
  if (!items.length) return null
  const shown = all ? items : items.slice(0, SHOWN)
  return (
    <section class="card need" aria-label="Needs you">
      <ul>
        {shown.map((item) => (
          <li key={item.text}>
            <span class="mark" aria-hidden="true">{MARKS[item.kind]}</span>
            <span>
              <b>{item.text}</b>
              {item.since !== null && (
                <span class="dim"> for <Age at={item.since} /></span>
              )}
            </span>
            <span class="grow" />
            {item.kind === 'recommended' ? (
              <a class="button" href="#/inbox">Look</a>
            ) : item.machine && item.host ? (
              <a href={toMachine(item.machine, item.host)}>Why?</a>
            ) : (
              item.host && <a href={toHost(item.host)}>Look</a>
            )}
            {all && <Command text={item.remedy} />}
          </li>
        ))}
      </ul>
      {items.length > SHOWN && (
        <button type="button" class="quiet" onClick={() => turn({ needs: all ? null : 'all' })}>
          {all ? (more ? `Less (${more.toLocaleString('en')} more are not listed)` : 'Less') : `and ${(items.length - SHOWN + more).toLocaleString('en')} more, with what to do`}
        </button>
      )}
      {items.length <= SHOWN && !all && (
        <button type="button" class="quiet" onClick={() => turn({ needs: 'all' })}>What to do</button>
      )}
    </section>
  )
}

interface Way extends Moving {
  from: string
}
const ways = (all: ReadonlyMap<string, Host>): Way[] =>
  [...all.values()].flatMap(({ brief }) => (brief.moves ?? []).map((m) => ({ ...m, from: brief.host })))

function Sky({ measure, sort }: { measure: Measure; sort: Sort }) {
  const all = useComputed(() => hosts.value).value
  const never = Object.keys(silent.value).filter((name) => !all.has(name))
  const picture = [...bars(all.values(), measure, sort), ...never.map(unheard)]
  const moves = ways(all)
  return (
    <>
      <Skyline
        bars={picture}
        measure={measure}
        moves={moves}
        label={`${many(picture.length, 'host')} as bars of their machines, by ${NAMES[measure]}`}
        tall={picture.length <= 12}
      />
      <Legend />
    </>
  )
}

const MODES: Record<string, string> = { cordoned: '⊘ cordoned', draining: '⇣ draining', active: '' }

function Hosts({ measure, most }: { measure: Measure; most?: number }) {
  const sort = (route.value.query.get('sort') as Sort) || (most ? 'load' : usualSort(hosts.value.size))
  const rows = order(hosts.value.values(), measure, sort).slice(0, most)
  const narrow = most !== undefined
  const columns: Column<Host>[] = [
        {
          name: 'host',
          sort: 'name',
          cell: ({ brief }) => (
            <>
              <a href={toHost(brief.host)}>{brief.host}</a> {MODES[brief.state]}
            </>
          ),
        },
        {
          name: NAMES[measure].toLowerCase(),
          sort: 'load',
          figure: true,
          cell: (host) => share(top(host, measure), 1),
        },
        { name: 'acts above', wide: true, figure: true, cell: ({ brief }) => share(brief.limit) },
        { name: 'waiting', sort: 'waiting', figure: true, cell: ({ brief }) => mark(brief.waiting) },
        { name: 'machines', wide: true, figure: true, cell: ({ brief }) => brief.machines.length },
        {
          name: 'heard',
          wide: true,
          figure: true,
          cell: (host) => (
            <>
              {host.silent && '? '}
              <Age at={host.heard} />
            </>
          ),
        },
  ]
  return (
    <Table<Host>
      label={narrow ? 'The fullest hosts' : 'All hosts'}
      rows={rows}
      id={(host) => host.brief.host}
      sorted={sort}
      {...(narrow ? {} : { sort: (by: string) => turn({ sort: by }) })}
      columns={columns.filter((column) => !(narrow && column.name === 'acts above'))}
    />
  )
}

export function mark(waiting: number | null): string {
  if (waiting === null) return '?'
  return waiting >= 50 ? `▲ ${waiting}` : waiting >= 10 ? `△ ${waiting}` : String(waiting)
}

function Past() {
  const points = past.value
  if (points.length < 2) return null
  return (
    <section class="card" aria-labelledby="past">
      <h2 id="past">Since this page was opened</h2>
      <Chart
        label="The fullest host, the level and the emptiest host"
        times={points.map((p) => p.at)}
        lines={[
          { name: 'fullest', colour: '--starve', values: points.map((p) => p.fullest) },
          { name: 'level', colour: '--water', dash: [6, 4], values: points.map((p) => p.mean) },
          { name: 'emptiest', colour: '--seg', values: points.map((p) => p.emptiest) },
        ]}
      />
    </section>
  )
}

function Moves() {
  const all = ways(hosts.value)
  return (
    <section class="card" aria-labelledby="moves">
      <h2 id="moves">On their way</h2>
      {!all.length && <p class="dim">Nothing moves.</p>}
      <ul class="list">
        {all.slice(0, 8).map((m) => (
          <li key={`${m.from}/${m.name}`}>
            <a href={toMachine(m.name, m.from)}>{m.name}</a>
            <span class="dim">
              {m.from} → {m.to}
            </span>
            {m.done === null ? (
              <span class="dim">
                {m.phase} for <Age at={m.since} />
              </span>
            ) : (
              <>
                <progress max={1000} value={m.done} aria-label={`${m.name} is on its way`} />
                <span class="num">{share(m.done)}</span>
              </>
            )}
          </li>
        ))}
        {all.length > 8 && <li class="dim">and {all.length - 8} more</li>}
      </ul>
    </section>
  )
}

function Lately() {
  const asked = useAsked<History>('history?limit=8&moves=true', 20_000)
  return (
    <section class="card" aria-labelledby="lately">
      <h2 id="lately">Decided lately</h2>
      <Wrong text={asked.error} />
      {asked.value && !asked.value.decisions.length && <p class="dim">Nothing was moved yet.</p>}
      <ul class="list log">
        {asked.value?.decisions.map(({ record }) => {
          const [from, to] = ends(record)
          const it = chosen(record)
          return (
            <li key={record.exchange + record.host}>
              <Clock at={record.ended} />
              <span>
                {it ? <a href={toMachine(it.name, to)}>{it.name}</a> : 'nothing'} {from} {outcome(record) === 'moved' ? '→' : '✕'}{' '}
                {to}
                {record.stats ? (
                  <span class="dim">: {seconds(record.stats.elapsed_ms)}, stood still {record.stats.downtime_ms} ms</span>
                ) : (
                  <> <Code code={record.ending} /></>
                )}
              </span>
            </li>
          )
        })}
      </ul>
      <p><a href="#/decisions">All decisions</a></p>
    </section>
  )
}
