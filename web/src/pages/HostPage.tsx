import { Age, Clock, Code, Command, Reasons, Table, Wrong, useAsked } from '../parts'
import { Legend, Skyline } from '../Skyline'
import { ofHost } from '../api'
import { bytes, load, many, sayHost, share, span } from '../format'
import { link, toHost, toMachine } from '../route'
import { bars } from '../sky'
import { hosts, now, silent } from '../store'
import type { Drain, HostExplained } from '../types'
import { mark } from './Cluster'
import { HostActs } from '../acts'

export function HostPage({ name }: { name: string }) {
  const known = hosts.value.get(name)
  const asked = useAsked<HostExplained>(ofHost(name, 'explain/host'))
  const told = asked.value
  const silence = silent.value[name]
  const brief = known?.brief
  if (!known && !told) {
    return (
      <>
        <div class="say"><h1>{silence ? `${name} has not answered.` : `No host ${name} is known here.`}</h1></div>
        <Wrong text={silence?.why ?? asked.error} />
      </>
    )
  }
  const at = told ? told.at : known!.heard
  return (
    <>
      <div class="say">
        <h1>{silence ? `${name} does not answer.` : told ? sayHost(told) : name}</h1>
        <p class="dim">
          {told?.reasons[0] && <><Code code={told.reasons[0].code} /> · </>}
          load {told ? load(told.load) : share(brief?.load ?? null, 1)}, its share{' '}
          {told ? load(told.target) : share(brief?.share ?? null)}, acts above{' '}
          {told ? load(told.limit) : share(brief?.limit ?? null)} · {brief?.state} · {brief?.mode} ·{' '}
          {brief?.version} · as of <Age at={silence ? (known?.heard ?? at) : at} />
        </p>
        {silence && <Wrong text={`${silence.why}. What is shown is as last heard.`} />}
        {!silence && <Wrong text={asked.error} />}
        {brief && <HostActs brief={brief} />}
      </div>
      {brief?.drain && <Emptying drain={brief.drain} name={name} />}
      <div class="columns broad">
        <section class="card" aria-labelledby="why">
          <h2 id="why">What keeps it from giving, or from taking</h2>
          {told ? <Reasons reasons={told.reasons} /> : <p class="dim">Not known.</p>}
          {told && !told.reasons.length && <p class="dim">Nothing: it looks for somebody to give to.</p>}
          <p><Command text={`evenkeel explain host --host ${name}`} /></p>
        </section>
        {known && (
          <section class="card" aria-labelledby="bar">
            <h2 id="bar">Its machines as a bar</h2>
            <Skyline bars={bars([known], 'load', 'name')} measure="load" label={`${name} as a bar of its machines`} />
            <Legend />
          </section>
        )}
      </div>
      <section class="card" aria-labelledby="machines">
        <h2 id="machines">{many(brief?.machines.length ?? told?.machines.length ?? 0, 'machine')}</h2>
        {brief && (
          <Table
            label={`Machines of ${name}`}
            rows={[...brief.machines].sort((a, b) => (b[1] ?? -1) - (a[1] ?? -1))}
            id={(row) => row[0]}
            none="It has no machines."
            columns={[
              { name: 'machine', cell: (row) => <a href={toMachine(row[0], name)}>{row[0]}</a> },
              { name: 'load', figure: true, cell: (row) => share(row[1], 1) },
              { name: 'CPU', figure: true, wide: true, cell: (row) => share(row[2], 1) },
              { name: 'memory', figure: true, wide: true, cell: (row) => share(row[3], 1) },
              { name: 'I/O', figure: true, wide: true, cell: (row) => share(row[4], 1) },
              { name: 'waiting', figure: true, cell: (row) => mark(row[5]) },
              {
                name: 'why it is still here',
                wide: true,
                cell: (row) => {
                  const why = told?.machines.find((m) => m.name === row[0])?.why
                  return why ? <Code code={why.code} /> : <span class="dim">?</span>
                },
              },
            ]}
          />
        )}
      </section>
      <div class="columns">
        <section class="card" aria-labelledby="labels">
          <h2 id="labels">Its labels</h2>
          <p>
            {Object.entries(brief?.labels ?? {}).map(([key, value]) => <code key={key}>{key}={value} </code>)}
            {!Object.keys(brief?.labels ?? {}).length && <span class="dim">None.</span>}
          </p>
          <p><a href={link(['decisions'], { host: name })}>What it decided</a></p>
        </section>
        <section class="card" aria-labelledby="peers">
          <h2 id="peers">What it has heard of others</h2>
          <Table
            label={`What ${name} has heard of other hosts`}
            rows={told?.peers ?? []}
            id={(peer) => peer.peer}
            none="Nothing yet."
            columns={[
              { name: 'host', cell: (peer) => <a href={toHost(peer.peer)}>{peer.peer}</a> },
              { name: 'load', figure: true, cell: (peer) => load(peer.load) },
              { name: 'heard', figure: true, cell: (peer) => span((told?.at ?? now.value) - peer.heard) },
            ]}
          />
        </section>
        {told?.record && (
          <section class="card" aria-labelledby="last">
            <h2 id="last">Its last exchange</h2>
            <p>
              <Clock at={told.record.ended} /> with {told.record.peer ?? 'nobody'}: <Code code={told.record.ending} />{' '}
              {told.record.detail} <a href={link(['decisions', told.record.exchange])}>All of it</a>
            </p>
          </section>
        )}
      </div>
    </>
  )
}

function Emptying({ drain, name }: { drain: Drain; name: string }) {
  const gone = Math.max(0, drain.machines - drain.machines_left)
  const left = drain.seconds_left === null ? '' : `, about ${span(drain.seconds_left * 1000)}`
  return (
    <section class="card" aria-labelledby="emptying">
      <h2 id="emptying">
        Emptying {name}: {gone} of {many(drain.machines, 'machine')} have gone, {bytes(drain.bytes_left)} left{left}
      </h2>
      <progress max={Math.max(1, drain.machines)} value={gone} aria-label={`${name} is being emptied`} />
      <ul class="list">
        {drain.staying.map((stays) => (
          <li key={stays.name}>
            stays: <a href={toMachine(stays.name, name)}>{stays.name}</a> <Code code={stays.reason} /> {stays.detail}
          </li>
        ))}
      </ul>
    </section>
  )
}
