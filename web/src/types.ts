// What the API says: see crates/desk/src/{brief,cluster,summary}.rs. Shares are in per mille of the
// host; null is not known, which is never 0.

export type Known = number | null

/** name, load, CPU, memory, I/O (per mille), waiting (0 to 100), flags */
export type Row = [string, Known, Known, Known, Known, Known, number]
export const LEAVING = 1
export const STILL = 2
export const UNREADABLE = 4

export interface Moving {
  name: string
  to: string
  since: number
  phase: string
  done: Known
  bytes: Known
  order?: string
}
export interface Alarm {
  machine: string
  peer: string
  phase: string
  since: number
  waits_for: string
}
export interface Lacking {
  name: string
  reason: string
  detail: string
  memory_bytes: number
}
export interface Drain {
  since: number
  machines: number
  bytes: number
  machines_left: number
  bytes_left: number
  seconds_left: number | null
  staying: Lacking[]
}
export interface Pause {
  until: number
  by: string
  reason: string
}
export interface Brief {
  host: string
  at: number
  version: string
  state: 'active' | 'cordoned' | 'draining'
  mode: string
  load: Known
  used: [Known, Known, Known]
  unknown?: string
  share: Known
  limit: Known
  waiting: Known
  labels?: Record<string, string>
  machines: Row[]
  moves?: Moving[]
  recommendations: number
  pause?: Pause
  outside_hours: boolean
  drain?: Drain
  alarms?: Alarm[]
  grants: 'none' | 'read' | 'operate'
}
export interface Silence {
  since: number
  why: string
}
export interface Attention {
  kind: 'handoff' | 'silent' | 'starving' | 'drain' | 'unknown' | 'recommended'
  text: string
  since: number | null
  host: string | null
  machine: string | null
  remedy: string
}
export interface Summary {
  sentence: string
  hosts: number
  heard: number
  machines: number
  mean: Known
  fullest: [string, number] | null
  emptiest: [string, number] | null
  waiting: Known
  worst: [string, string, number] | null
  moving: number
  recommendations: number
  pause: Pause | null
  modes: Record<string, number>
  versions: Record<string, number>
  attention: Attention[]
  attention_more: number
}
export interface Update {
  format: string
  rev: string
  whole: boolean
  by: string
  at: number
  summary: Summary
  hosts: Brief[]
  heard: Record<string, number>
  silent: Record<string, Silence>
  gone: string[]
}
export interface Me {
  name: string
  role: 'read' | 'operate' | 'own'
  recorded: boolean
}

export type About = 'machine' | 'host' | { peer: string } | { record: string | null }
export interface Why {
  code: string
  about: About
  detail: string
  meaning: string
  remedy: string
}
export interface HostExplained {
  host: string
  at: number
  state: string
  load: number | null
  target: number | null
  limit: number | null
  reasons: Why[]
  machines: { name: string; load: number | null; contention_score: number | null; why: Why }[]
  peers: { peer: string; heard: number; load: number; state: string; contention_score: number | null }[]
  record: Decision | null
}
export interface MachineExplained {
  machine: string
  name: string
  host: string
  at: number
  reasons: Why[]
  basis: string | null
  load: number | null
  contention: { cpu: number | null; memory: number | null; io: number | null }
  cost: { seconds: number; bytes: number; downtime_ms?: number } | null
  rules: Record<string, unknown>
  prospects: {
    peer: string
    heard: number
    load: number
    state: string
    at_receiver: number | null
    verdict: string
  }[]
  record: Decision | null
}
export interface Judged {
  machine: string
  name: string
  at_donor: number | null
  at_receiver: number | null
  verdict: string
  detail?: string
}
export interface Decision {
  exchange: string
  host: string
  initiator: string
  peer: string | null
  role: 'donor' | 'receiver' | null
  began: number
  ended: number
  pair: { donor: number; receiver: number } | null
  candidates: Judged[]
  handoff: string | null
  ending: string
  detail: string
  stats: { elapsed_ms: number; downtime_ms: number; bytes: number } | null
  predicted: { seconds: number; bytes: number } | null
  authority: string
  more?: number
}
export interface Entry {
  record: Decision
  other: Decision | null
}
export interface History {
  decisions: Entry[]
  missing: Record<string, string>
}
