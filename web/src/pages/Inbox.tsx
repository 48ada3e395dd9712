import { Command, Table, Wrong, useAsked } from '../parts'
import { Act, Watch, type Ordered } from '../acts'
import { ask, ofHost } from '../api'
import { bytes, load, many, seconds, span } from '../format'
import { toMachine } from '../route'
import { now } from '../store'

interface Recommendation {
  id: string
  machine: string
  name: string
  from: string
  to: string
  in_return: string | null
  pair: { donor: number; receiver: number } | null
  bytes: number | null
  seconds: number | null
  since: number
  until: number
}
interface Waiting {
  recommendations: Recommendation[]
  missing: Record<string, string>
}

/** The moves that wait for an operator. */
export function Inbox() {
  const asked = useAsked<Waiting>('inbox', 5000)
  const all = asked.value?.recommendations ?? []
  const missing = Object.entries(asked.value?.missing ?? {})
  return (
    <>
      <div class="say">
        <h1>
          {!asked.value
            ? asked.error
              ? 'The moves that wait are not known.'
              : 'Asking the hosts…'
            : all.length
              ? `${many(all.length, 'move')} ${all.length === 1 ? 'waits' : 'wait'} for you.`
              : 'No move waits for you.'}
        </h1>
        <p class="dim">
          Hosts that ask first recommend a move here. Each is judged anew when you approve of it.{' '}
          <Command text="evenkeel recommendations" />
        </p>
        <Wrong text={asked.error} />
        {missing.length > 0 && (
          <Wrong text={`${many(missing.length, 'host')} could not be asked: ${missing.map(([host, why]) => `${host}: ${why}`).join('; ')}`} />
        )}
      </div>
      <section class="card" aria-label="Moves that wait">
        <Table<Recommendation>
          label="Moves that wait for an operator"
          rows={all}
          id={(one) => one.id}
          none={asked.value ? 'None.' : 'Asking…'}
          columns={[
            { name: 'machine', cell: (one) => <a href={toMachine(one.name, one.from)}>{one.name}</a> },
            {
              name: 'hosts',
              cell: (one) => (
                <>
                  {one.from} → {one.to}
                  {one.in_return && <span class="dim"> in return {one.in_return}</span>}
                </>
              ),
            },
            {
              name: 'loads',
              wide: true,
              cell: (one) => (one.pair ? `${load(one.pair.donor)} and ${load(one.pair.receiver)}` : '?'),
            },
            {
              name: 'cost',
              wide: true,
              cell: (one) =>
                `${one.bytes === null ? '?' : bytes(one.bytes)}, ${one.seconds === null ? '?' : seconds(one.seconds * 1000)}`,
            },
            { name: 'expires in', wide: true, figure: true, cell: (one) => span(one.until - now.value) },
            { name: 'what to do', cell: (one) => <Choice one={one} again={asked.again} /> },
          ]}
        />
      </section>
    </>
  )
}

function Choice({ one, again }: { one: Recommendation; again: () => void }) {
  const path = ofHost(one.from, `recommendations/${one.id}`)
  const approve = async () => {
    const first = await ask<Ordered>(`${path}/approve`, 'POST')
    return <Watch first={first} />
  }
  const skip = async () => {
    await ask(path, 'DELETE')
    again()
    return <p>Dropped.</p>
  }
  const id = one.id.slice(0, 8)
  return (
    <span class="steps">
      <Act label="Approve…" title={`Move ${one.name} to ${one.to}`} host={one.from} command={`evenkeel approve ${id}`} word="Approve" run={approve}>
        <p>
          {one.pair && `Loads were ${load(one.pair.donor)} on ${one.from} and ${load(one.pair.receiver)} on ${one.to}. `}
          It was found {span(now.value - one.since)} ago. It is judged anew, and made only if it still helps.
        </p>
      </Act>
      <Act label="Skip…" title={`Drop the move of ${one.name}`} host={one.from} command={`evenkeel skip ${id}`} word="Drop it" run={skip}>
        <p>{one.name} stays on {one.from}. The hosts may recommend the move again.</p>
      </Act>
    </span>
  )
}
