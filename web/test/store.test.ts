import { expect, test } from 'vitest'
import { apply, type Host } from '../src/store'
import { link, parse } from '../src/route'
import type { Brief, Update } from '../src/types'

const brief = (host: string, load: number): Brief => ({
  host, at: 1, version: '1', state: 'active', mode: 'automatic', load, used: [load, null, null], share: null, limit: null,
  waiting: 0, machines: [], recommendations: 0, outside_hours: false, grants: 'read',
})
const update = (change: Partial<Update>): Update => ({
  format: 'evenkeel.cluster/v1', rev: '0-1', whole: false, by: 'a', at: 1, hosts: [], heard: {}, silent: {}, gone: [],
  summary: {} as Update['summary'], ...change,
})
const none = new Map<string, Host>()

test('an update changes what it names and leaves the rest as it is', () => {
  const first = apply(none, update({ whole: true, hosts: [brief('a', 1), brief('b', 2)], heard: { a: 5, b: 5 } }))
  const after = apply(first, update({ hosts: [brief('b', 9)], heard: { a: 8, b: 9 } }))
  expect(after.get('a')).toEqual({ brief: brief('a', 1), heard: 8 })
  expect(after.get('b')!.brief.load).toBe(9)
  expect(first.get('b')!.brief.load).toBe(2)
})

test('a silent host keeps its figures until it is heard again, and one that is gone goes', () => {
  const first = apply(none, update({ whole: true, hosts: [brief('a', 1), brief('b', 2)], heard: { a: 5, b: 5 } }))
  const silent = apply(first, update({ silent: { b: { since: 5, why: 'refused' } } }))
  expect(silent.get('b')).toEqual({ brief: brief('b', 2), heard: 5, silent: { since: 5, why: 'refused' } })
  const back = apply(silent, update({ heard: { b: 11 } }))
  expect(back.get('b')).toEqual({ brief: brief('b', 2), heard: 11 })
  expect([...apply(back, update({ gone: ['b'] })).keys()]).toEqual(['a'])
  expect([...apply(back, update({ whole: true, hosts: [brief('c', 1)], heard: { c: 1 } })).keys()]).toEqual(['c'])
})

test('a link leads to the view that it was made of, whatever names are in it', () => {
  for (const name of ['kvm1', 'a b', 'x/y', 'ü?&=#%']) {
    const there = parse(link(['machines', name], { host: name }))
    expect(there.path).toEqual(['machines', name])
    expect(there.query.get('host')).toBe(name)
  }
  expect(parse('').path).toEqual([])
  expect(parse('#/').path).toEqual([])
})
