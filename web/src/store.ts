// What is known of the cluster: a stream of updates, applied at most once a frame.

import { batch, computed, signal } from '@preact/signals'
import type { Brief, Me, Silence, Summary, Update } from './types'

export interface Host {
  brief: Brief
  /** When it was heard last, by the clock of the host that is looked at. */
  heard: number
  silent?: Silence
}

/** Every host that has been heard, by name. */
export const hosts = signal<ReadonlyMap<string, Host>>(new Map())
/** Hosts that do not answer, those that were never heard among them. */
export const silent = signal<Record<string, Silence>>({})
export const summary = signal<Summary | null>(null)
export const by = signal('')
export const me = signal<Me | null>(null)
export const live = signal<'connecting' | 'live' | 'lost'>('connecting')
/** When the stream broke, by this computer's clock. */
export const lostAt = signal(0)
export const refused = signal<string | null>(null)

/** What was said last, by the clock of the host that is looked at, and when that was here. */
const told = signal({ at: 0, here: 0 })
const tick = signal(Date.now())
/** The time at the host that is looked at. A recording stands still between two updates. */
export const now = computed(() => {
  const { at, here } = told.value
  if (!at || me.value?.recorded) return at || tick.value
  return at + Math.max(0, tick.value - here)
})

export interface Point {
  at: number
  fullest: number | null
  mean: number | null
  emptiest: number | null
}
/** How level it was since the page was opened. */
export const past = signal<Point[]>([])
const POINTS_MAX = 2000

export function apply(before: ReadonlyMap<string, Host>, update: Update): Map<string, Host> {
  const after = update.whole ? new Map<string, Host>() : new Map(before)
  for (const name of update.gone) after.delete(name)
  for (const brief of update.hosts) {
    after.set(brief.host, { brief, heard: update.heard[brief.host] ?? brief.at })
  }
  for (const [name, heard] of Object.entries(update.heard)) {
    const known = after.get(name)
    if (known && (known.heard !== heard || known.silent)) after.set(name, { brief: known.brief, heard })
  }
  for (const [name, host] of after) {
    const silence = update.silent[name]
    if (silence) after.set(name, { ...host, silent: silence })
    else if (host.silent) after.set(name, { brief: host.brief, heard: host.heard })
  }
  return after
}

function take(update: Update): void {
  batch(() => {
    hosts.value = apply(hosts.value, update)
    silent.value = update.silent
    summary.value = update.summary
    by.value = update.by
    told.value = { at: update.at, here: Date.now() }
    live.value = 'live'
    const { fullest, emptiest, mean } = update.summary
    const point = { at: update.at, fullest: fullest?.[1] ?? null, mean, emptiest: emptiest?.[1] ?? null }
    const last = past.value[past.value.length - 1]
    // A recording that is shown anew begins earlier.
    const kept = last && last.at > point.at ? [] : past.value.slice(-POINTS_MAX)
    if (!last || last.at !== point.at) past.value = [...kept, point]
  })
}

/** Follows the stream. A tab that nobody sees for a minute lets go of it. */
export function follow(): void {
  let source: EventSource | null = null
  let waiting: Update[] = []
  let hidden: ReturnType<typeof setTimeout> | undefined
  const open = () => {
    source?.close()
    source = new EventSource('api/v1/events')
    source.addEventListener('update', (event) => {
      if (waiting.push(JSON.parse((event as MessageEvent<string>).data) as Update) > 1) return
      requestAnimationFrame(() => {
        const all = waiting
        waiting = []
        all.forEach(take)
      })
    })
    source.onerror = () => {
      if (live.value === 'lost') return
      live.value = 'lost'
      lostAt.value = Date.now()
    }
  }
  document.addEventListener('visibilitychange', () => {
    clearTimeout(hidden)
    if (document.hidden) {
      hidden = setTimeout(() => {
        source?.close()
        source = null
      }, 60_000)
    } else if (!source || source.readyState === EventSource.CLOSED) open()
  })
  setInterval(() => {
    tick.value = Date.now()
    // A browser that was refused does not try again by itself.
    if (live.value === 'lost' && source?.readyState === EventSource.CLOSED && !document.hidden) open()
  }, 1000)
  open()
}

/** Hosts that have a machine of this name. */
export function hostsOf(machine: string): string[] {
  const found: string[] = []
  for (const [name, host] of hosts.value) {
    if (host.brief.machines.some((row) => row[0] === machine)) found.push(name)
  }
  return found
}

export const mayAct = computed(
  () => live.value === 'live' && !!me.value && me.value.role !== 'read' && !me.value.recorded,
)
