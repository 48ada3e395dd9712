import { Age, Clock, Code, Command, Reasons, Table, Wrong, useAsked } from '../parts'
import { ofHost } from '../api'
import { bytes, chosen, ends, figures, load, many, outcome, sayMachine, seconds, span } from '../format'
import { link, route, toHost, toMachine } from '../route'
import { hosts, hostsOf, now } from '../store'
import type { History, MachineExplained } from '../types'
import { MachineActs } from '../acts'

export function MachinePage({ name }: { name: string }) {
  const found = hostsOf(name)
  const wanted = route.value.query.get('host')
  // It may have moved since the link was made.
  const host = wanted && (found.includes(wanted) || !found.length) ? wanted : found.length === 1 ? found[0]! : null
  if (!host) {
    return (
      <>
        <div class="say">
          <h1>{found.length ? `${many(found.length, 'host')} have a machine ${name}.` : `No machine ${name} is known.`}</h1>
          <p class="dim">
            {found.length ? 'Choose one:' : `${many(hosts.value.size, 'host')} have said which machines they have.`}
          </p>
        </div>
        <ul class="list">{found.map((one) => <li key={one}><a href={toMachine(name, one)}>{name} on {one}</a></li>)}</ul>
      </>
    )
  }
  return <Told name={name} host={host} key={`${host}/${name}`} />
}

function Told({ name, host }: { name: string; host: string }) {
  const asked = useAsked<MachineExplained>(ofHost(host, `explain/machines/${encodeURIComponent(name)}`))
  const path = useAsked<History>(`history?limit=20&moves=true&machine=${encodeURIComponent(name)}`, 30_000)
  const told = asked.value
  const moves = path.value?.decisions.filter(({ record }) => chosen(record)?.name === name) ?? []
  return (
    <>
      <div class="say">
        <h1>{told ? sayMachine(told) : asked.error ? `${name} on ${host}` : 'Asking…'}</h1>
        {told && (
          <p class="dim">
            {told.reasons[0] && <><Code code={told.reasons[0].code} /> · </>}
            load {load(told.load)} of <a href={toHost(host)}>{host}</a> ({told.basis ?? 'not known'}) · as of{' '}
            <Age at={told.at} />
          </p>
        )}
        <Wrong text={asked.error} />
        {told && <MachineActs told={told} />}
      </div>
      {told && (
        <div class="columns broad">
          <section class="card" aria-labelledby="why">
            <h2 id="why">Why it has not moved</h2>
            <Reasons reasons={told.reasons} />
            {!told.reasons.length && <p class="dim">Nothing keeps it.</p>}
            <p><Command text={`evenkeel explain vm ${name} --host ${host}`} /></p>
          </section>
          <section class="card" aria-labelledby="cost">
            <h2 id="cost">What moving it is predicted to cost</h2>
            {told.cost ? (
              <dl>
                <dt>to send</dt><dd>{bytes(told.cost.bytes)}</dd>
                <dt>takes</dt><dd>{seconds(told.cost.seconds * 1000)}</dd>
                <dt>stands still</dt><dd>{told.cost.downtime_ms == null ? '?' : `${Math.round(told.cost.downtime_ms)} ms`}</dd>
              </dl>
            ) : (
              <p class="dim">Not known, or not worth it.</p>
            )}
            <h2>What it goes without</h2>
            <dl>
              <dt>CPU</dt><dd>{load(told.contention.cpu)}</dd>
              <dt>memory</dt><dd>{load(told.contention.memory)}</dd>
              <dt>I/O</dt><dd>{load(told.contention.io)}</dd>
            </dl>
          </section>
        </div>
      )}
      {told && (
        <section class="card" aria-labelledby="where">
          <h2 id="where">Where it could go</h2>
          <Table
            label={`Hosts that ${name} could go to`}
            rows={told.prospects}
            id={(p) => p.peer}
            none="No other host has been heard of."
            columns={[
              { name: 'host', cell: (p) => <a href={toHost(p.peer)}>{p.peer}</a> },
              { name: 'its load', figure: true, cell: (p) => load(p.load) },
              { name: 'with it', figure: true, cell: (p) => (p.at_receiver === null ? '?' : load(p.load + p.at_receiver)) },
              { name: 'verdict', cell: (p) => <Code code={p.verdict} /> },
              { name: 'heard', figure: true, wide: true, cell: (p) => span(told.at - p.heard) },
            ]}
          />
        </section>
      )}
      <div class="columns">
        <section class="card" aria-labelledby="path">
          <h2 id="path">Where it has been</h2>
          <Wrong text={path.error} />
          {path.value && !moves.length && <p class="dim">It has not moved as far back as hosts remember.</p>}
          <ul class="list log">
            {moves.map(({ record }) => {
              const [from, to] = ends(record)
              return (
                <li key={record.exchange + record.host}>
                  <Clock at={record.ended} />
                  <span>
                    <a href={link(['decisions', record.exchange])}>
                      {from} {outcome(record) === 'moved' ? '→' : '✕'} {to}
                    </a>{' '}
                    {outcome(record) !== 'moved' && <Code code={record.ending} />}{' '}
                    <span class="dim">{figures(record)}, {span(now.value - record.ended)} ago</span>
                  </span>
                </li>
              )
            })}
          </ul>
        </section>
        {told && (
          <section class="card" aria-labelledby="rules">
            <h2 id="rules">Its rules</h2>
            <Rules rules={told.rules} />
            <p><Command text={`evenkeel rule ${name} --host ${host}`} /></p>
          </section>
        )}
      </div>
    </>
  )
}

function Rules({ rules }: { rules: Record<string, unknown> }) {
  const set = Object.entries(rules).filter(([, value]) => {
    if (value === null || value === false || value === 0) return false
    return !(Array.isArray(value) && !value.length)
  })
  if (!set.length) return <p class="dim">None: it may go anywhere.</p>
  return (
    <ul class="list">
      {set.map(([key, value]) => (
        <li key={key}><code>{key}</code> {typeof value === 'object' ? JSON.stringify(value) : String(value)}</li>
      ))}
    </ul>
  )
}
