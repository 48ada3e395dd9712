// What can be done, each with a look before it is done and the command that does the same.

import { useSignal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { useEffect, useRef } from 'preact/hooks'
import { ask, ofHost } from './api'
import { load, many, seconds } from './format'
import { Code, Command, told } from './parts'
import { by, hosts, live, mayAct, me, now } from './store'
import type { Brief, MachineExplained } from './types'

/** How far a move is that somebody has ordered. */
export interface Ordered {
  id: string
  name: string
  from: string
  to: string | null
  stage: 'waiting' | 'looking' | 'asking' | 'moving' | 'ended'
  reason: string | null
  detail: string
  refusals: [string, string][]
  stats: { elapsed_ms: number; downtime_ms: number } | null
}

/** Why nothing can be done on a host from here, or null. */
export function hindrance(host: string): string | null {
  if (me.value?.recorded) return 'this is a recording'
  if (live.value !== 'live') return 'the page is not live'
  if (!mayAct.value) return 'you may only look'
  if (host === by.value) return null
  const brief = hosts.value.get(host)?.brief
  if (brief && brief.grants !== 'operate') {
    return `${host} lets other hosts only look: act on it, or set members = "operate" under [api] there`
  }
  return hosts.value.get(host)?.silent ? `${host} does not answer` : null
}

/** A button and the dialog that it opens: what would be done, by which command, and what came of it. */
export function Act(props: {
  label: string
  title: string
  host: string
  command: string
  /** What the last button says. */
  word: string
  danger?: boolean
  children?: ComponentChildren
  run: () => Promise<ComponentChildren>
}) {
  const dialog = useRef<HTMLDialogElement>(null)
  const state = useSignal<{ busy: boolean; said: ComponentChildren; wrong: string | null }>({
    busy: false,
    said: null,
    wrong: null,
  })
  const why = hindrance(props.host)
  const open = () => {
    state.value = { busy: false, said: null, wrong: null }
    dialog.current?.showModal()
  }
  const run = async () => {
    state.value = { busy: true, said: null, wrong: null }
    try {
      state.value = { busy: false, said: await props.run(), wrong: null }
    } catch (error) {
      state.value = { busy: false, said: null, wrong: told(error) }
    }
  }
  const { busy, said, wrong } = state.value
  return (
    <>
      <button type="button" disabled={why !== null} title={why ?? ''} onClick={open}>{props.label}</button>
      <dialog ref={dialog} aria-label={props.title}>
        <h2>{props.title}</h2>
        {props.children}
        <p><Command text={props.command} /></p>
        {wrong && <p class="wrong" role="alert">! {wrong}</p>}
        {said && <div role="status">{said}</div>}
        <div class="buttons">
          {!said && (
            <button type="button" class={props.danger ? 'danger' : 'primary'} disabled={busy || why !== null} onClick={run}>
              {busy ? 'Asking…' : props.word}
            </button>
          )}
          <button type="button" onClick={() => dialog.current?.close()}>{said ? 'Close' : 'Leave it'}</button>
        </div>
      </dialog>
    </>
  )
}

interface Fit {
  hosts: number
  silent: string[]
  machines: number
  lacking: { name: string; reason: string; detail: string }[]
  no_spare: unknown
  begins: boolean
}

export function HostActs({ brief }: { brief: Brief }) {
  const { host, state, machines } = brief
  const set = (wanted: string) => async () => {
    await ask(ofHost(host, 'state'), 'PUT', wanted)
    return <p>{host} is {wanted} now.</p>
  }
  const drain = async () => {
    const fit = await ask<Fit>(ofHost(host, 'drain'), 'POST', {})
    return <Fits fit={fit} host={host} />
  }
  const why = hindrance(host)
  return (
    <div class="steps">
      {state === 'active' ? (
        <>
          <Act label="Drain…" title={`Empty ${host}`} host={host} command={`evenkeel drain ${host}`} word={`Empty ${host}`} danger run={drain}>
            <p>
              All {many(machines.length, 'machine')} go to other hosts. {host} asks the others first. It begins only if they can
              hold the machines and could then still do without any one of them. Otherwise nothing is changed, and the answer
              says what is missing.
            </p>
          </Act>
          <Act label="Cordon…" title={`Let ${host} take no machines`} host={host} command={`evenkeel cordon ${host}`} word="Cordon" run={set('cordoned')}>
            <p>{host} keeps its {many(machines.length, 'machine')}, and takes no others until it takes part again.</p>
          </Act>
        </>
      ) : (
        <Act label="Take part again…" title={`Let ${host} take part again`} host={host} command={`evenkeel uncordon ${host}`} word="Take part" run={set('active')}>
          <p>{host} is {state}. It gives and takes machines again. Machines on their way arrive all the same.</p>
        </Act>
      )}
      {why && !me.value?.recorded && <span class="dim">{why}</span>}
    </div>
  )
}

function Fits({ fit, host }: { fit: Fit; host: string }) {
  return (
    <>
      <p>
        {fit.begins ? `${host} is being emptied.` : `Nothing was changed: ${host} cannot be emptied as things are.`}{' '}
        {many(fit.hosts, 'host')} answered{fit.silent.length > 0 && `, ${fit.silent.join(', ')} did not`}.
      </p>
      {fit.no_spare !== null && <p>! Afterwards the rest could not do without another host.</p>}
      <ul class="list">
        {fit.lacking.map((one) => <li key={one.name}>{one.name} <Code code={one.reason} /> {one.detail}</li>)}
      </ul>
    </>
  )
}

export function MachineActs({ told: it }: { told: MachineExplained }) {
  const to = useSignal('')
  const there = it.prospects.find((p) => p.peer === to.value)
  const move = async () => {
    const path = ofHost(it.host, `machines/${encodeURIComponent(it.machine)}/move`)
    return <Watch first={await ask<Ordered>(path, 'POST', to.value || null)} />
  }
  return (
    <div class="steps">
      <Act
        label="Move…"
        title={`Move ${it.name} off ${it.host}`}
        host={it.host}
        command={`evenkeel migrate ${it.name}${to.value ? ` ${to.value}` : ''}`}
        word={to.value ? `Move it to ${to.value}` : 'Move it'}
        run={move}
      >
        <p>
          <label>
            to{' '}
            <select value={to.value} onChange={(e) => (to.value = e.currentTarget.value)}>
              <option value="">wherever it fits best</option>
              {it.prospects.map((p) => <option key={p.peer} value={p.peer}>{p.peer}</option>)}
            </select>
          </label>
        </p>
        {there && (
          <p>
            {there.peer} has a load of {load(there.load)}
            {there.at_receiver !== null && `, with it ${load(there.load + there.at_receiver)}`}. Left to themselves the hosts
            would say <Code code={there.verdict} />.
          </p>
        )}
        <p>
          {it.cost
            ? `It is predicted to take ${seconds(it.cost.seconds * 1000)}.`
            : 'How long it takes is not known.'}{' '}
          Loads do not matter to a move that you order. Rules, room and what the machine needs of a host hold as ever.
        </p>
      </Act>
    </div>
  )
}

/** Follows a move until it is over. */
export function Watch({ first }: { first: Ordered }) {
  const state = useSignal(first)
  const wrong = useSignal<string | null>(null)
  const { id, from, stage } = state.value
  const over = stage === 'ended'
  useEffect(() => {
    if (over) return
    const timer = setInterval(async () => {
      try {
        state.value = await ask<Ordered>(ofHost(from, `moves/${id}`))
        wrong.value = null
      } catch (error) {
        wrong.value = told(error)
      }
    }, 1000)
    return () => clearInterval(timer)
  }, [id, over])
  const { name, to, reason, detail, stats, refusals } = state.value
  const words: Record<Ordered['stage'], string> = {
    waiting: `${name} waits for a host to be free.`,
    looking: `Hosts are asked where ${name} fits.`,
    asking: `${to ?? 'A host'} is asked to take ${name}.`,
    moving: `${name} is on its way to ${to}.`,
    ended: reason === 'MOVED' ? `${name} runs on ${to}.` : `${name} stays on ${from}.`,
  }
  return (
    <>
      <p>
        {words[stage]} {reason && <Code code={reason} />} {detail}
        {stats && ` It took ${seconds(stats.elapsed_ms)} and stood still ${stats.downtime_ms} ms.`}
      </p>
      {refusals.length > 0 && (
        <ul class="list">{refusals.map(([host, code]) => <li key={host}>{host}: <Code code={code} /></li>)}</ul>
      )}
      {wrong.value && <p class="wrong">! {wrong.value}</p>}
    </>
  )
}

/** Pauses the whole cluster, or ends the pause. */
export function PauseAct({ paused }: { paused: boolean }) {
  const hours = useSignal(1)
  const reason = useSignal('')
  const host = by.value
  if (paused) {
    const resume = async () => {
      await ask('pause', 'DELETE')
      return <p>The pause is over. Other hosts hear of it within a round.</p>
    }
    return (
      <Act label="Resume…" title="End the pause" host={host} command="evenkeel resume" word="Resume" run={resume}>
        <p>Hosts move machines by themselves again, as their modes say.</p>
      </Act>
    )
  }
  const pause = async () => {
    await ask('pause', 'PUT', { seconds: Math.round(hours.value * 3600), by: 'the desk', reason: reason.value })
    return <p>Paused until {new Date(now.value + hours.value * 3_600_000).toLocaleTimeString('en-GB')}.</p>
  }
  return (
    <Act
      label="Pause…"
      title="Pause the whole cluster"
      host={host}
      command={`evenkeel pause --for ${hours.value}h${reason.value ? ` --reason '${reason.value}'` : ''}`}
      word="Pause"
      run={pause}
    >
      <p>No host moves anything by itself. What is under way ends as usual, and what you order is done.</p>
      <p>
        <label>
          for{' '}
          <select value={String(hours.value)} onChange={(e) => (hours.value = Number(e.currentTarget.value))}>
            {[1, 2, 4, 8, 24, 72].map((h) => <option key={h} value={h}>{many(h, 'hour')}</option>)}
          </select>
        </label>{' '}
        <label>why <input type="text" maxLength={200} value={reason.value} onInput={(e) => (reason.value = e.currentTarget.value)} /></label>
      </p>
    </Act>
  )
}
