import { expect, test } from 'vitest'
import { bars, binned, frame, inOrder, level, usualSort } from '../src/sky'
import type { Host } from '../src/store'
import type { Brief } from '../src/types'

const host = (name: string, load: number | null, change: Partial<Brief> = {}, silent = false): Host => ({
  brief: {
    host: name, at: 0, version: '1', state: 'active', mode: 'automatic', load, used: [load, null, null], share: null,
    limit: null, waiting: 0, machines: load === null ? [] : [[`${name}-m`, load, load, null, null, 0, 0]], recommendations: 0,
    outside_hours: false, grants: 'read', ...change,
  },
  heard: 0,
  ...(silent ? { silent: { since: 0, why: '' } } : {}),
})

test('few hosts are in the order of their names, as people count, and many in that of their loads', () => {
  const all = [host('kvm10', 100), host('kvm2', 300), host('kvm1', 200)]
  expect(bars(all, 'load', 'name').map((bar) => bar.name)).toEqual(['kvm1', 'kvm2', 'kvm10'])
  expect(bars(all, 'load', 'load').map((bar) => bar.name)).toEqual(['kvm2', 'kvm1', 'kvm10'])
  expect([usualSort(24), usualSort(25)]).toEqual(['name', 'load'])
})

test('the level is of hosts that answer and are known, and nothing where there is none', () => {
  const all = bars([host('a', 400), host('b', 200), host('c', 9000, {}, true), host('d', null)], 'load', 'name')
  expect(level(all)).toBe(300)
  expect(level(bars([host('d', null)], 'load', 'name'))).toBeNull()
})

test('a resource that is not known is not drawn as nothing', () => {
  const [bar] = bars([host('a', 400)], 'memory', 'name')
  expect(bar!.top).toBeNull()
  expect(bar!.segments[0]!.size).toBeNull()
})

test('five hundred hosts fit in a hundred bars, each of which stands for five', () => {
  const all = bars(Array.from({ length: 500 }, (_, i) => host(`h${i}`, 500 - i)), 'load', 'load')
  const few = binned(all, 100)
  expect(few.length).toBe(100)
  expect(few.reduce((sum, bar) => sum + bar.hosts, 0)).toBe(500)
  expect(few[0]!.top).toBe(498)
  expect(few[0]!.segments.reduce((sum, s) => sum + (s.size ?? 0), 0)).toBeCloseTo(498)
  expect(binned(all.slice(0, 50), 100).length).toBe(50)
})

test('in thin bars machines that wait gather at the foot', () => {
  const machines: Brief['machines'] = [['calm', 300, 0, 0, 0, 0, 0], ['waits', 100, 0, 0, 0, 60, 0]]
  const all = bars([host('a', 400, { machines })], 'load', 'name')
  const picture = { bars: all, arcs: [], level: null, host: -1, machine: -1, max: 1100, ghost: null }
  const wide = frame(picture, 800, 300)
  expect(inOrder(all[0]!, wide)[0]!.name).toBe('calm')
  expect(inOrder(all[0]!, { ...wide, bar: 5 })[0]!.name).toBe('waits')
})
