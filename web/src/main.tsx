import { render } from 'preact'
import { useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import 'uplot/dist/uPlot.min.css'
import './style.css'
import { ask, enter } from './api'
import { span, zone } from './format'
import { Copy, told } from './parts'
import { Cluster } from './pages/Cluster'
import { Decisions, OneDecision } from './pages/Decisions'
import { Inbox } from './pages/Inbox'
import { HostPage } from './pages/HostPage'
import { MachinePage } from './pages/MachinePage'
import { go, link, parse, route, toHost, toMachine, turn } from './route'
import { MEASURES } from './sky'
import { by, follow, hosts, live, lostAt, me, now, refused, summary } from './store'
import type { Me } from './types'

function Page() {
  const [place, thing] = route.value.path
  if (place === 'hosts' && thing) return <HostPage name={thing} key={thing} />
  if (place === 'machines' && thing) return <MachinePage name={thing} key={thing} />
  if (place === 'decisions') return thing ? <OneDecision exchange={thing} key={thing} /> : <Decisions />
  if (place === 'inbox') return <Inbox />
  if (place) return <div class="say"><h1>There is no such page.</h1><p><a href="#/">Back to the cluster</a></p></div>
  return <Cluster />
}

const PLACES: [string, string][] = [
  ['', 'Cluster'],
  ['decisions', 'Decisions'],
  ['inbox', 'Inbox'],
]

function Header() {
  const here = route.value.path[0] ?? ''
  return (
    <header>
      <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); document.querySelector('main')?.focus() }}>To the content</a>
      <a class="name" href="#/">
        <svg viewBox="0 0 24 24" aria-hidden="true">
          <path d="M3 14h18M6 14c1 4 4 6 6 6s5-2 6-6M9 14V5m3 9V3m3 11V7" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" />
        </svg>
        Evenkeel
      </a>
      <nav aria-label="Places">
        {PLACES.map(([path, name]) => (
          <a key={path} href={`#/${path}`} {...(here === path ? { 'aria-current': 'page' as const } : {})}>{name}</a>
        ))}
      </nav>
      <span class="grow" />
      <Search />
      <Live />
    </header>
  )
}

function Live() {
  const said = summary.value
  const state = live.value
  if (!said) return <span class="live">{state === 'lost' ? 'not live' : 'connecting…'}</span>
  const what = me.value?.recorded ? 'recording' : state === 'live' ? 'live' : 'not live'
  return (
    <span class={`live ${state}`} title={`times are of ${zone}`}>
      <i aria-hidden="true" />
      {what} · {said.heard} of {said.hosts} hosts · by {by.value}
    </span>
  )
}

/** What is shown is old, and says so. */
function Lost() {
  if (live.value !== 'lost' || !summary.value) return null
  return (
    <p class="lost" role="alert">
      Not live for {span(Math.max(1000, now.value - now.peek() + Date.now() - lostAt.value))}: the agent does not answer. Trying
      again. What is shown is as last heard, and nothing can be done.
    </p>
  )
}

const FOUND_MAX = 8
function Search() {
  const text = useSignal('')
  const at = useSignal(0)
  const input = useRef<HTMLInputElement>(null)
  const wanted = text.value.trim().toLowerCase()
  const found: { name: string; where: string; to: string }[] = []
  if (wanted) {
    for (const name of hosts.value.keys()) {
      if (found.length < FOUND_MAX && name.toLowerCase().includes(wanted)) found.push({ name, where: 'host', to: toHost(name) })
    }
    for (const [host, { brief }] of hosts.value) {
      for (const [name] of brief.machines) {
        if (found.length >= FOUND_MAX) break
        if (name.toLowerCase().includes(wanted)) found.push({ name, where: `on ${host}`, to: toMachine(name, host) })
      }
    }
    if (/^[a-z]+_[a-z_]*$/.test(wanted)) {
      const code = wanted.toUpperCase()
      found.push({ name: code, where: 'decisions', to: link(['decisions'], { code }) })
    }
  }
  const open = (to: string) => {
    text.value = ''
    input.current?.blur()
    go(to)
  }
  const key = (event: KeyboardEvent) => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault()
      const step = event.key === 'ArrowDown' ? 1 : -1
      at.value = Math.max(0, Math.min(found.length - 1, at.value + step))
    } else if (event.key === 'Enter' && found[at.value]) open(found[at.value]!.to)
    else if (event.key === 'Escape') {
      text.value = ''
      input.current?.blur()
    }
  }
  return (
    <div class="search">
      <input
        ref={input}
        id="find"
        type="search"
        {...({ role: 'combobox' } as object)}
        aria-expanded={found.length > 0}
        aria-controls="found"
        aria-autocomplete="list"
        {...(found.length ? { 'aria-activedescendant': `found-${at.value}` } : {})}
        aria-label="Find a host, a machine or a code"
        placeholder="Find a host, machine, code ( / )"
        autocomplete="off"
        value={text.value}
        onInput={(e) => { text.value = e.currentTarget.value; at.value = 0 }}
        onKeyDown={key}
      />
      <ul id="found" role="listbox" aria-label="Found" hidden={!found.length}>
        {found.map((one, i) => (
          <li
            key={one.to}
            id={`found-${i}`}
            role="option"
            aria-selected={i === at.value}
            onPointerDown={(e) => { e.preventDefault(); open(one.to) }}
          >
            {one.name} <span class="dim">{one.where}</span>
          </li>
        ))}
      </ul>
      {wanted && !found.length && <p class="none" role="status">Nothing is called so.</p>}
    </div>
  )
}

const KEYS: [string, string][] = [
  ['/', 'find a host, a machine or a code'],
  ['c', 'the cluster'],
  ['e', 'decisions'],
  ['i', 'the moves that wait for you'],
  ['1 to 5', 'load, CPU, memory, I/O, waiting'],
  ['t', 'picture or table'],
  ['← → ↑ ↓', 'in the picture: host, machine; Enter opens it'],
  ['y', 'copy the link to this view'],
  ['?', 'these keys'],
]

function Keys() {
  const dialog = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    const key = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return
      if (document.querySelector('dialog[open]')) return
      const measure = MEASURES[Number(event.key) - 1]
      if (event.key === '/') {
        event.preventDefault()
        document.getElementById('find')?.focus()
      } else if (event.key === '?') dialog.current?.showModal()
      else if (event.key === 'c') go('#/')
      else if (event.key === 'e') go('#/decisions')
      else if (event.key === 'i') go('#/inbox')
      else if (event.key === 'y') void navigator.clipboard?.writeText(location.href)
      else if (route.value.path.length) return
      else if (measure) turn({ by: measure === 'load' ? null : measure })
      else if (event.key === 't') turn({ view: route.value.query.get('view') === 'table' ? null : 'table' })
    }
    addEventListener('keydown', key)
    return () => removeEventListener('keydown', key)
  }, [])
  return (
    <dialog ref={dialog} aria-labelledby="keys">
      <h2 id="keys">Keys</h2>
      <dl>{KEYS.map(([key, what]) => <><dt><kbd>{key}</kbd></dt><dd>{what}</dd></>)}</dl>
      <form method="dialog"><button>Close</button></form>
    </dialog>
  )
}

function Footer() {
  const who = me.value
  return (
    <footer class="dim">
      <span>times are of {zone}{zone === 'UTC' ? '' : '; point at one for UTC'}</span>
      {who && <span>{who.recorded ? 'this is a recording: nothing can be done' : `you are ${who.name}, and may ${who.role === 'read' ? 'look' : 'act'}`}</span>}
      <span>keys: <kbd>?</kbd></span>
      <Copy text={location.href} label="Copy link" />
    </footer>
  )
}

function App() {
  if (refused.value) {
    return <main><div class="say"><h1>Not let in.</h1><p>{refused.value}</p></div></main>
  }
  return (
    <>
      <Header />
      <Lost />
      <main id="main" tabIndex={-1} class={live.value === 'lost' ? 'stale' : ''}><Page /></main>
      <Footer />
      <Keys />
    </>
  )
}

async function start(): Promise<void> {
  addEventListener('hashchange', () => {
    route.value = parse(location.hash)
    scrollTo(0, 0)
  })
  render(<App />, document.getElementById('app')!)
  refused.value = await enter()
  route.value = parse(location.hash)
  if (refused.value) return
  try {
    me.value = await ask<Me>('me')
  } catch (error) {
    refused.value = told(error)
    return
  }
  follow()
}

void start()
