import { Clock, Code, Command, Copy, Table, Wrong, useAsked } from '../parts'
import { type Outcome, chosen, ends, figures, load, many, outcome, seconds, utc } from '../format'
import { link, route, toHost, toMachine, turn, withQuery } from '../route'
import { hosts } from '../store'
import type { Decision, Entry, History } from '../types'

const TABS: [Outcome, string][] = [
  ['moved', 'Moved'],
  ['stayed', 'Stayed'],
  ['failed', 'Failed'],
]
const LIMIT = 300

export function Decisions() {
  const { query } = route.value
  const filter = new URLSearchParams({ limit: String(LIMIT) })
  for (const key of ['host', 'machine']) {
    const value = query.get(key)
    if (value) filter.set(key, value)
  }
  const asked = useAsked<History>(`history?${filter}`, 15_000)
  const code = query.get('code')
  const all = (asked.value?.decisions ?? []).filter(({ record }) => !code || hasCode(record, code))
  const of = (what: Outcome) => all.filter(({ record }) => outcome(record) === what)
  const tab = (query.get('tab') as Outcome) || (code ? TABS.find(([what]) => of(what).length)?.[0] : null) || 'moved'
  const shown = of(tab)
  const missing = Object.entries(asked.value?.missing ?? {})
  return (
    <>
      <div class="say">
        <h1>
          {asked.value
            ? `${many(of('moved').length, 'machine')} moved, ${many(of('stayed').length, 'exchange')} changed nothing, ${of('failed').length} failed.`
            : 'Asking the hosts…'}
        </h1>
        <p class="dim">
          The newest {LIMIT} of each host{code && <> with <code>{code}</code></>}. <Command text={command(query)} />
        </p>
        <Wrong text={asked.error} />
        {missing.length > 0 && (
          <Wrong text={`${many(missing.length, 'host')} could not be asked: ${missing.map(([host, why]) => `${host}: ${why}`).join('; ')}`} />
        )}
      </div>
      <section class="card" aria-label="Decisions">
        <div class="tools">
          <div class="choices" role="group" aria-label="What became of it">
            {TABS.map(([what, name]) => (
              <button key={what} type="button" aria-pressed={what === tab} onClick={() => turn({ tab: what })}>
                {name} {of(what).length}
              </button>
            ))}
          </div>
          <span class="grow" />
          <label>
            host{' '}
            <select value={query.get('host') ?? ''} onChange={(e) => turn({ host: e.currentTarget.value || null })}>
              <option value="">any</option>
              {[...hosts.value.keys()].sort().map((name) => <option key={name}>{name}</option>)}
            </select>
          </label>
          <label>
            machine{' '}
            <input
              type="text"
              size={10}
              value={query.get('machine') ?? ''}
              onChange={(e) => turn({ machine: e.currentTarget.value || null })}
            />
          </label>
          {code && <a href={withQuery({ code: null })}>any code</a>}
          <Copy text={location.href} label="Copy link" />
        </div>
        {tab === 'stayed' && <ByCode entries={shown} />}
        <Table<Entry>
          label={`What ${tab}`}
          rows={shown}
          id={({ record }) => record.exchange + record.host}
          none={asked.value ? 'Nothing.' : 'Asking…'}
          columns={[
            { name: 'when', cell: ({ record }) => <Clock at={record.ended} /> },
            {
              name: 'machine',
              cell: ({ record }) => {
                const it = chosen(record)
                return it ? <a href={toMachine(it.name)}>{it.name}</a> : <span class="dim">none</span>
              },
            },
            {
              name: 'hosts',
              cell: ({ record }) => {
                const [from, to] = ends(record)
                return `${from} ${tab === 'moved' ? '→' : tab === 'failed' ? '✕' : '·'} ${to}`
              },
            },
            {
              name: 'why',
              wide: true,
              cell: ({ record }) => (
                <>
                  {tab !== 'moved' && <Code code={record.ending} />} <span class="dim">{figures(record) || record.detail}</span>
                </>
              ),
            },
            { name: 'record', cell: ({ record }) => <a href={link(['decisions', record.exchange])} aria-label={`All of the exchange at ${utc(record.ended)}`}>all</a> },
          ]}
        />
      </section>
    </>
  )
}

const hasCode = (record: Decision, code: string): boolean =>
  record.ending === code || record.candidates.some((judged) => judged.verdict === code)

function command(query: URLSearchParams): string {
  const host = query.get('host')
  const machine = query.get('machine')
  return `evenkeel history --all${host ? ` --host ${host}` : ''}${machine ? ` --vm ${machine}` : ''}`
}

function ByCode({ entries }: { entries: Entry[] }) {
  const counts = new Map<string, number>()
  for (const { record } of entries) counts.set(record.ending, (counts.get(record.ending) ?? 0) + 1 + (record.more ?? 0))
  const all = [...counts].sort((a, b) => b[1] - a[1])
  const most = all[0]?.[1] ?? 1
  return (
    <ul class="counts" aria-label="Why nothing moved, by code">
      {all.map(([code, count]) => (
        <li key={code}>
          <Code code={code} /> <span class="num">{count}</span>
          <meter min={0} max={most} value={count} aria-label={`${code}: ${count}`} />
        </li>
      ))}
    </ul>
  )
}

export function OneDecision({ exchange }: { exchange: string }) {
  const asked = useAsked<History>(`history?limit=10&exchange=${encodeURIComponent(exchange)}`, 15_000)
  const records = (asked.value?.decisions ?? []).flatMap(({ record, other }) => (other ? [record, other] : [record]))
  const first = records[0]
  const disagree = records.length > 1 && records.some((record) => record.ending !== first!.ending)
  const it = first && chosen(first)
  const [from, to] = first ? ends(first) : ['', '']
  return (
    <>
      <div class="say">
        <h1>
          {!asked.value
            ? 'Asking the hosts…'
            : !first
              ? `No host has a record of exchange ${exchange}.`
              : it
                ? `${it.name} ${outcome(first) === 'moved' ? 'moved' : 'did not move'} from ${from} to ${to}.`
                : `${from} and ${to} moved nothing.`}
        </h1>
        {first && <p class="dim"><Code code={first.ending} /> {first.detail} {figures(first)}</p>}
        <Wrong text={asked.error} />
        {disagree && <Wrong text="The two hosts do not say the same of how it ended: look at the machine on both." />}
      </div>
      <div class="columns broad">
        {records.map((record) => (
          <section class="card" key={record.host} aria-labelledby={`of-${record.host}`}>
            <h2 id={`of-${record.host}`}>As <a href={toHost(record.host)}>{record.host}</a> has it ({record.role ?? 'no role'})</h2>
            <dl>
              <dt>began</dt><dd><Clock at={record.began} /></dd>
              <dt>took</dt><dd>{seconds(record.ended - record.began)}</dd>
              <dt>opened by</dt><dd>{record.initiator}</dd>
              <dt>loads</dt><dd>{record.pair ? `${load(record.pair.donor)} and ${load(record.pair.receiver)}` : '?'}</dd>
              <dt>ended</dt><dd><Code code={record.ending} /> {record.detail}</dd>
              {record.predicted && <><dt>predicted</dt><dd>{seconds(record.predicted.seconds * 1000)}</dd></>}
              {record.stats && <><dt>measured</dt><dd>{seconds(record.stats.elapsed_ms)}, stood still {record.stats.downtime_ms} ms</dd></>}
              <dt>on the word of</dt><dd>{record.authority}</dd>
            </dl>
            <Table
              label={`Machines that ${record.host} judged`}
              rows={record.candidates}
              id={(judged) => judged.machine}
              none="No machine was judged."
              columns={[
                { name: 'machine', cell: (judged) => <a href={toMachine(judged.name)}>{judged.name}</a> },
                { name: 'loads giver', figure: true, wide: true, cell: (judged) => load(judged.at_donor) },
                { name: 'loads taker', figure: true, wide: true, cell: (judged) => load(judged.at_receiver) },
                { name: 'verdict', cell: (judged) => <><Code code={judged.verdict} /> {judged.detail}</> },
              ]}
            />
          </section>
        ))}
      </div>
      {records.length > 0 && (
        <details class="card">
          <summary>As JSON</summary>
          <pre>{JSON.stringify(records, null, 2)}</pre>
        </details>
      )}
    </>
  )
}
