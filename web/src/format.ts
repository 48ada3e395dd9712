// How figures read. What is not known reads `?`, never 0.

import type { Decision, HostExplained, Known, MachineExplained } from './types'

export const UNKNOWN = '?'

/** Per mille as per cent: 613 is `61 %`, with a digit `61.3 %`. */
export const share = (perMille: Known, digits = 0): string =>
  perMille === null ? UNKNOWN : `${(perMille / 10).toFixed(digits)} %`

/** A load of 1.0 is `100 %`. */
export const load = (value: number | null, digits = 1): string =>
  value === null ? UNKNOWN : `${(value * 100).toFixed(digits)} %`

export const score = (value: Known): string => (value === null ? UNKNOWN : String(value))

/** How long something took or has lasted, in its largest two units. */
export function span(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000))
  if (s < 1) return `${Math.max(0, Math.round(ms))} ms`
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min`
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`
}

/** Seconds with a digit below ten. */
export const seconds = (ms: number): string =>
  ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : span(ms)

export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024
  return `${count < 10 && unit > 0 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`
}

export const many = (count: number, one: string, more = `${one}s`): string =>
  `${count.toLocaleString('en')} ${count === 1 ? one : more}`

/** The zone in which times are shown. */
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC'
const today = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' })
const before = new Intl.DateTimeFormat('en-GB', {
  weekday: 'short',
  day: 'numeric',
  month: 'short',
  hour: '2-digit',
  minute: '2-digit',
})

/** A time of day, with the day where it is not the day of `now`. */
export function clock(at: number, now: number): string {
  const same = new Date(at).toDateString() === new Date(now).toDateString()
  return (same ? today : before).format(at)
}

/** A time as logs have it. */
export const utc = (at: number): string => new Date(at).toISOString()

const lower = (text: string): string =>
  /^[A-Z][a-z ]/.test(text) ? text[0]!.toLowerCase() + text.slice(1) : text

/** Why a host gives nothing, in a sentence. */
export function sayHost(told: HostExplained): string {
  const first = told.reasons[0]
  if (told.state === 'draining') return `${told.host} is being emptied.`
  if (!first) return `${told.host} is looking for somebody to give to.`
  return `${told.host} gives nothing: ${lower(first.meaning)}`
}

/** Why a machine is where it is, in a sentence. */
export function sayMachine(told: MachineExplained): string {
  const first = told.reasons[0]
  if (!first) return `Nothing keeps ${told.name} on ${told.host}: it moves when that helps.`
  return `${told.name} stays on ${told.host}: ${lower(first.meaning)}`
}

/** What became of a decision. */
export type Outcome = 'moved' | 'stayed' | 'failed'
const FAILED = new Set([
  'MIGRATION_FAILED',
  'MIGRATION_TOO_LONG',
  'RESERVATION_EXPIRED',
  'STORE_FAILED',
  'ENDED',
])
export function outcome(decision: Decision): Outcome {
  if (decision.ending === 'MOVED') return 'moved'
  return decision.handoff && FAILED.has(decision.ending) ? 'failed' : 'stayed'
}

export const chosen = (decision: Decision) =>
  decision.candidates.find((c) => c.verdict === 'CHOSEN' || c.verdict === 'RULE_REPAIRED')

/** Who gave, and who took. */
export function ends(decision: Decision): [string, string] {
  const other = decision.peer ?? UNKNOWN
  return decision.role === 'receiver' ? [other, decision.host] : [decision.host, other]
}

/** The figures of a decision, in words. */
export function figures(decision: Decision): string {
  const { pair, stats } = decision
  const it = chosen(decision)
  const parts: string[] = []
  if (pair) {
    parts.push(`loads ${load(pair.donor)} and ${load(pair.receiver)}`)
    if (it?.at_receiver != null) parts.push(`it ${load(it.at_receiver)} there`)
  }
  if (stats) parts.push(`took ${seconds(stats.elapsed_ms)}, stood still ${stats.downtime_ms} ms`)
  return parts.join(', ')
}
