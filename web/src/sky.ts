// The skyline: a bar for each host, a segment for each machine, and a line at the level.

import type { Host } from './store'
import { LEAVING, type Row } from './types'

export type Measure = 'load' | 'cpu' | 'memory' | 'io' | 'waiting'
export const MEASURES: Measure[] = ['load', 'cpu', 'memory', 'io', 'waiting']
export type Sort = 'name' | 'load' | 'waiting'

/** From which score on a machine waits, and from which on it starves. */
export const WAITS = 10
export const STARVES = 50

export interface Segment {
  name: string
  /** per mille; null is not known */
  size: number | null
  waiting: number | null
  leaving: boolean
}
export interface Bar {
  name: string
  /** per mille; null is not known */
  top: number | null
  segments: Segment[]
  state: string
  silent: boolean
  limit: number | null
  /** How many hosts this stands for, where there is no room for each. */
  hosts: number
}

const COLUMN: Record<Measure, 1 | 2 | 3 | 4 | 5> = { load: 1, cpu: 2, memory: 3, io: 4, waiting: 5 }

export const top = (host: Host, measure: Measure): number | null => {
  const { load, used, waiting } = host.brief
  if (measure === 'load') return load
  if (measure === 'waiting') return waiting === null ? null : waiting * 10
  return used[COLUMN[measure] - 2] ?? null
}

function segments(host: Host, measure: Measure): Segment[] {
  const { brief } = host
  if (measure === 'waiting') {
    const size = brief.waiting === null ? null : brief.waiting * 10
    return [{ name: '', size, waiting: brief.waiting, leaving: false }]
  }
  const column = COLUMN[measure]
  const segment = (row: Row): Segment => ({
    name: row[0],
    size: row[column],
    waiting: row[5],
    leaving: (row[6] & LEAVING) !== 0,
  })
  return brief.machines.map(segment).sort((a, b) => (b.size ?? -1) - (a.size ?? -1))
}

/** Hosts in order, without their bars. */
export function order(hosts: Iterable<Host>, measure: Measure, sort: Sort): Host[] {
  const name = (a: Host, b: Host) => byName(a.brief.host, b.brief.host)
  const by: Record<Sort, (a: Host, b: Host) => number> = {
    name,
    load: (a, b) => (top(b, measure) ?? -1) - (top(a, measure) ?? -1) || name(a, b),
    waiting: (a, b) => (b.brief.waiting ?? -1) - (a.brief.waiting ?? -1) || name(a, b),
  }
  return [...hosts].sort(by[sort])
}

const byName = new Intl.Collator('en', { numeric: true }).compare

/** The bars of these hosts in order. Few hosts are found by name, many make a curve by load. */
export function bars(hosts: Iterable<Host>, measure: Measure, sort: Sort): Bar[] {
  return order(hosts, measure, sort).map((host): Bar => ({
    name: host.brief.host,
    top: top(host, measure),
    segments: segments(host, measure),
    state: host.brief.state,
    silent: host.silent !== undefined,
    limit: measure === 'load' ? host.brief.limit : null,
    hosts: 1,
  }))
}

/** A host of which nothing is known but that it is there. */
export const unheard = (name: string): Bar => ({
  name,
  top: null,
  segments: [],
  state: 'active',
  silent: true,
  limit: null,
  hosts: 1,
})

export const usualSort = (count: number): Sort => (count <= 24 ? 'name' : 'load')

/** Mean of what is known of hosts that answer. */
export function level(all: Bar[]): number | null {
  const known = all.filter((bar) => !bar.silent && bar.top !== null)
  if (!known.length) return null
  return known.reduce((sum, bar) => sum + bar.top!, 0) / known.length
}

/** So many bars, each for some hosts in a row: where bars would be thinner than a pixel or two. */
export function binned(all: Bar[], count: number): Bar[] {
  if (all.length <= count) return all
  const bins: Bar[] = []
  for (let bin = 0; bin < count; bin++) {
    const part = all.slice(
      Math.floor((bin * all.length) / count),
      Math.floor(((bin + 1) * all.length) / count),
    )
    const mean = level(part.map((bar) => ({ ...bar, silent: false })))
    const first = part[0]!
    const last = part[part.length - 1]!
    bins.push({
      ...first,
      name: part.length > 1 ? `${first.name} to ${last.name}` : first.name,
      top: mean,
      // How much of it waits is what segments say at this size.
      segments: waitingPart(part, mean),
      silent: part.every((bar) => bar.silent),
      hosts: part.length,
    })
  }
  return bins
}

function waitingPart(part: Bar[], mean: number | null): Segment[] {
  let [all, waits, starves] = [0, 0, 0]
  for (const bar of part) {
    for (const { size, waiting } of bar.segments) {
      all += size ?? 0
      if (waiting !== null && waiting >= STARVES) starves += size ?? 0
      else if (waiting !== null && waiting >= WAITS) waits += size ?? 0
    }
  }
  if (mean === null) return []
  const scale = all > 0 ? mean / all : 0
  const segment = (size: number, waiting: number): Segment => ({
    name: '',
    size: size * scale,
    waiting,
    leaving: false,
  })
  return [segment(starves, STARVES), segment(waits, WAITS), segment(all - starves - waits, 0)]
}

export interface Arc {
  name: string
  from: number
  to: number
  done: number | null
}
export interface Picture {
  bars: Bar[]
  arcs: Arc[]
  level: number | null
  /** The host and machine under the cursor. */
  host: number
  machine: number
  /** Per cent of its height that the picture goes up to. */
  max: number
  /** Loads that hosts would have, by name. */
  ghost: ReadonlyMap<string, number> | null
}
export interface Frame {
  left: number
  step: number
  bar: number
  y: (perMille: number) => number
}

export const TOP = 46
const LEFT = 44
const RIGHT = 8

export function frame(picture: Picture, width: number, height: number): Frame {
  const count = Math.max(1, picture.bars.length)
  const step = (width - LEFT - RIGHT) / count
  const gap = step > 40 ? step * 0.18 : step > 4 ? Math.min(3, step * 0.2) : step > 2 ? 0.5 : 0
  const bottom = count <= 24 ? 26 : 10
  const room = height - TOP - bottom
  const most = picture.max
  return {
    left: LEFT,
    step,
    bar: step - gap,
    y: (perMille) => TOP + room * (1 - Math.min(most, perMille) / most),
  }
}

/** The host at this place, or -1. */
export function hostAt(picture: Picture, width: number, height: number, x: number): number {
  const { left, step } = frame(picture, width, height)
  const at = Math.floor((x - left) / step)
  return at >= 0 && at < picture.bars.length ? at : -1
}

/** The machine at this height of a bar, or -1. */
export function machineAt(picture: Picture, width: number, height: number, at: number, y: number): number {
  const bar = picture.bars[at]
  if (!bar) return -1
  const place = frame(picture, width, height)
  let below = 0
  return inOrder(bar, place).findIndex(({ size }) => {
    const from = below
    below += size ?? 0
    return y <= place.y(from) && y > place.y(below)
  })
}

/** Segments as they are drawn: in thin bars those that wait gather at the foot. */
export function inOrder(bar: Bar, place: Frame): Segment[] {
  if (place.bar >= 10) return bar.segments
  return [...bar.segments].sort((a, b) => (b.waiting ?? 0) - (a.waiting ?? 0))
}

export function draw(canvas: HTMLCanvasElement, picture: Picture): void {
  const style = getComputedStyle(canvas)
  const colour = (name: string): string => style.getPropertyValue(name).trim()
  const ratio = Math.min(2, window.devicePixelRatio || 1)
  const width = canvas.clientWidth
  const height = canvas.clientHeight
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(height * ratio)
  }
  const g = canvas.getContext('2d', { alpha: false })
  if (!g || width === 0) return
  g.setTransform(ratio, 0, 0, ratio, 0, 0)
  g.fillStyle = colour('--card')
  g.fillRect(0, 0, width, height)
  g.font = '12px system-ui, sans-serif'
  g.textBaseline = 'middle'
  const place = frame(picture, width, height)
  axis(g, picture, place, width, colour)
  segmentsOf(g, picture, place, colour)
  if (place.bar > 60) names(g, picture, place, colour)
  picture.bars.forEach((bar, i) => {
    const x = place.left + i * place.step + (place.step - place.bar) / 2
    if (bar.top === null) unknown(g, place, x, colour)
    if (bar.silent) hatch(g, place, x, Math.max(bar.top ?? 0, 60), colour)
  })
  if (picture.ghost) ghostOf(g, picture, place, colour)
  levelLine(g, picture, place, width, colour)
  if (picture.bars.length <= 24) feet(g, picture, place, height, colour)
  picture.arcs.forEach((arc) => arcOf(g, picture, place, arc, colour))
  cursorOf(g, picture, place, colour)
}

type Colour = (name: string) => string

function axis(g: CanvasRenderingContext2D, picture: Picture, place: Frame, width: number, colour: Colour) {
  const every = picture.max > 2200 ? 500 : 250
  for (let at = 0; at <= picture.max; at += every) {
    const y = Math.round(place.y(at))
    g.fillStyle = colour('--line')
    g.fillRect(place.left, y, width - place.left - RIGHT, 1)
    g.fillStyle = colour('--dim')
    g.textAlign = 'right'
    g.fillText(`${at / 10} %`, place.left - 6, y)
  }
}

const paint = (waiting: number | null, even: boolean): string =>
  waiting !== null && waiting >= STARVES
    ? '--starve'
    : waiting !== null && waiting >= WAITS
      ? '--wait'
      : even
        ? '--seg'
        : '--seg2'

/** All segments of one colour are one path: ten thousand of them are drawn within a frame. */
function segmentsOf(g: CanvasRenderingContext2D, picture: Picture, place: Frame, colour: Colour) {
  const paths = new Map<string, number[]>()
  picture.bars.forEach((bar, i) => {
    const x = place.left + i * place.step + (place.step - place.bar) / 2
    let below = 0
    inOrder(bar, place).forEach((segment, k) => {
      if (!segment.size) return
      const low = place.y(below)
      below += segment.size
      const high = place.y(below)
      const tall = low - high
      // Between thin bars' segments lines would be all that is seen.
      const between = place.bar < 6 ? 0 : tall > 3 ? 1 : tall > 1.2 ? 0.4 : 0
      const name = segment.leaving ? '--new' : paint(segment.waiting, (k & 1) === 0)
      let path = paths.get(name)
      if (!path) paths.set(name, (path = []))
      path.push(x, high + between, place.bar, Math.max(0.5, tall - between))
    })
  })
  for (const [name, path] of paths) {
    g.fillStyle = colour(name)
    g.beginPath()
    for (let i = 0; i < path.length; i += 4) g.rect(path[i]!, path[i + 1]!, path[i + 2]!, path[i + 3]!)
    g.fill()
  }
}

function names(g: CanvasRenderingContext2D, picture: Picture, place: Frame, colour: Colour) {
  picture.bars.forEach((bar, i) => {
    const x = place.left + i * place.step + (place.step - place.bar) / 2
    let below = 0
    for (const { name, size, waiting, leaving } of bar.segments) {
      if (!size) continue
      const low = place.y(below)
      below += size
      const high = place.y(below)
      if (low - high <= 14 || !name) continue
      const mark = waiting !== null && waiting >= STARVES ? ' ▲' : waiting !== null && waiting >= WAITS ? ' △' : ''
      const dark = leaving || (waiting !== null && waiting >= WAITS)
      g.fillStyle = colour(dark ? '--on-warm' : '--on-seg')
      g.textAlign = 'left'
      const figure = place.bar > 120 ? `${(size / 10).toFixed(1)} %` : ''
      const room = place.bar - 12 - (figure ? 50 : 0)
      g.fillText(fitted(g, `${name}${mark}`, room), x + 6, (low + high) / 2)
      if (figure) {
        g.textAlign = 'right'
        g.fillText(figure, x + place.bar - 6, (low + high) / 2)
      }
    }
  })
}

/** A text that is cut where it would not fit, rather than squeezed. */
function fitted(g: CanvasRenderingContext2D, text: string, room: number): string {
  if (g.measureText(text).width <= room) return text
  let length = text.length
  while (length > 1 && g.measureText(`${text.slice(0, length)}…`).width > room) length--
  return length > 1 ? `${text.slice(0, length)}…` : ''
}

/** What is not known is an outline with a question mark, and no bar of height zero. */
function unknown(g: CanvasRenderingContext2D, place: Frame, x: number, colour: Colour) {
  g.strokeStyle = colour('--dim')
  g.lineWidth = 1
  g.setLineDash([3, 3])
  g.strokeRect(x + 0.5, place.y(300), Math.max(1, place.bar - 1), place.y(0) - place.y(300))
  g.setLineDash([])
  if (place.bar > 10) {
    g.fillStyle = colour('--ink')
    g.textAlign = 'center'
    g.fillText('?', x + place.bar / 2, place.y(150))
  }
}

function hatch(g: CanvasRenderingContext2D, place: Frame, x: number, top: number, colour: Colour) {
  const low = place.y(0)
  const high = place.y(top)
  g.save()
  g.beginPath()
  g.rect(x, high, place.bar, low - high)
  g.clip()
  g.fillStyle = colour('--card')
  g.globalAlpha = 0.45
  g.fillRect(x, high, place.bar, low - high)
  g.globalAlpha = 1
  g.strokeStyle = colour('--ink')
  g.lineWidth = 1.2
  g.beginPath()
  for (let at = x - (low - high); at < x + place.bar; at += 6) {
    g.moveTo(at, low)
    g.lineTo(at + (low - high), high)
  }
  g.stroke()
  g.restore()
}

function ghostOf(g: CanvasRenderingContext2D, picture: Picture, place: Frame, colour: Colour) {
  g.strokeStyle = colour('--new')
  g.lineWidth = 2
  g.beginPath()
  picture.bars.forEach((bar, i) => {
    const load = picture.ghost?.get(bar.name)
    if (load === undefined) return
    const x = place.left + i * place.step + (place.step - place.bar) / 2
    g.moveTo(x, place.y(load))
    g.lineTo(x + place.bar, place.y(load))
  })
  g.stroke()
}

function levelLine(g: CanvasRenderingContext2D, picture: Picture, place: Frame, width: number, colour: Colour) {
  if (picture.level === null) return
  const y = place.y(picture.level)
  g.strokeStyle = colour('--water')
  g.lineWidth = 1.5
  g.setLineDash([7, 4])
  g.beginPath()
  g.moveTo(place.left, y)
  g.lineTo(width - RIGHT, y)
  g.stroke()
  g.setLineDash([])
  const label = `level ${(picture.level / 10).toFixed(0)} %`
  g.textAlign = 'right'
  const wide = g.measureText(label).width
  g.fillStyle = colour('--card')
  g.globalAlpha = 0.9
  g.fillRect(width - RIGHT - wide - 8, y - 19, wide + 8, 16)
  g.globalAlpha = 1
  g.fillStyle = colour('--water')
  g.fillText(label, width - RIGHT - 4, y - 11)
}

const MARKS: Record<string, string> = { draining: ' ⇣', cordoned: ' ⊘' }

function feet(g: CanvasRenderingContext2D, picture: Picture, place: Frame, height: number, colour: Colour) {
  g.textAlign = 'center'
  picture.bars.forEach((bar, i) => {
    g.fillStyle = colour(bar.silent ? '--dim' : '--ink')
    const figure = bar.top !== null ? `${(bar.top / 10).toFixed(0)} %` : bar.silent ? '' : '?'
    const mark = `${MARKS[bar.state] ?? ''}${bar.silent ? ' ?' : ''}`
    const middle = place.left + (i + 0.5) * place.step
    const whole = `${bar.name}  ${figure}${mark}`
    const text = g.measureText(whole).width <= place.step - 4 ? whole : fitted(g, bar.name + mark, place.step - 4)
    g.fillText(text, middle, height - 11)
  })
}

function arcOf(g: CanvasRenderingContext2D, picture: Picture, place: Frame, arc: Arc, colour: Colour) {
  const from = picture.bars[arc.from]
  const to = picture.bars[arc.to]
  if (!from || !to) return
  const [x0, x1] = [place.left + (arc.from + 0.5) * place.step, place.left + (arc.to + 0.5) * place.step]
  const [y0, y1] = [place.y(from.top ?? 0) - 4, place.y(to.top ?? 0) - 4]
  const peak = Math.max(14, Math.min(y0, y1) - 34)
  g.strokeStyle = colour('--new')
  g.lineWidth = 1.5
  g.beginPath()
  g.moveTo(x0, y0)
  g.quadraticCurveTo((x0 + x1) / 2, peak, x1, y1)
  g.stroke()
  // Where the hypervisor does not say how far it is, it is shown half way and without a figure.
  const t = (arc.done ?? 500) / 1000
  const x = (1 - t) ** 2 * x0 + 2 * (1 - t) * t * ((x0 + x1) / 2) + t * t * x1
  const y = (1 - t) ** 2 * y0 + 2 * (1 - t) * t * peak + t * t * y1
  const wide = Math.max(8, Math.min(place.bar, 40))
  g.fillStyle = colour('--new')
  g.fillRect(x - wide / 2, y - 5, wide, 10)
  if (picture.bars.length <= 60) {
    g.textAlign = 'center'
    g.fillStyle = colour('--ink')
    const label = arc.done === null ? arc.name : `${arc.name} ${(arc.done / 10).toFixed(0)} %`
    g.fillText(label, x, Math.max(8, y - 14))
  }
}

function cursorOf(g: CanvasRenderingContext2D, picture: Picture, place: Frame, colour: Colour) {
  const bar = picture.bars[picture.host]
  if (!bar) return
  const x = place.left + picture.host * place.step
  g.strokeStyle = colour('--accent')
  g.lineWidth = 2
  g.strokeRect(x, place.y(picture.max), Math.max(3, place.step), place.y(0) - place.y(picture.max))
  let below = 0
  inOrder(bar, place).forEach((segment, k) => {
    const low = place.y(below)
    below += segment.size ?? 0
    if (k !== picture.machine) return
    g.strokeStyle = colour('--ink')
    g.strokeRect(x + (place.step - place.bar) / 2, place.y(below), place.bar, low - place.y(below))
  })
}
