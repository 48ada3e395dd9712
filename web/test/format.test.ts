import { describe, expect, test } from 'vitest'
import { bytes, clock, ends, load, outcome, sayHost, sayMachine, score, seconds, share, span } from '../src/format'
import type { Decision, HostExplained, MachineExplained } from '../src/types'

test('what is not known reads as a question mark and never as zero', () => {
  expect([share(null), share(null, 1), load(null), score(null)]).toEqual(['?', '?', '?', '?'])
  expect([share(0), load(0), score(0)]).toEqual(['0 %', '0.0 %', '0'])
})

test('spans read in their largest units', () => {
  const cases: [number, string][] = [
    [0, '0 ms'], [400, '400 ms'], [1000, '1 s'], [59_000, '59 s'], [61_000, '1 min'], [3_600_000, '1 h 0 min'],
    [90_000_000, '1 d 1 h'], [-5, '0 ms'],
  ]
  for (const [ms, text] of cases) expect(span(ms)).toBe(text)
  expect(seconds(740)).toBe('0.7 s')
  expect(bytes(4.2 * 2 ** 30)).toBe('4.2 GiB')
  expect(bytes(0)).toBe('0 B')
})

test('a time of another day says so', () => {
  const noon = new Date(2026, 10, 30, 12).getTime()
  expect(clock(noon, noon + 1000)).toMatch(/^\d\d:\d\d:\d\d$/)
  expect(clock(noon - 86_400_000, noon)).toMatch(/Nov/)
})

const decision = (change: Partial<Decision>): Decision => ({
  exchange: '1', host: 'a', initiator: 'a', peer: 'b', role: 'donor', began: 0, ended: 1, pair: null, candidates: [],
  handoff: null, ending: 'WITHIN_DEAD_BAND', detail: '', stats: null, predicted: null, authority: 'automatic', ...change,
})

describe('decisions', () => {
  test('moved, stayed and failed are told apart', () => {
    expect(outcome(decision({}))).toBe('stayed')
    expect(outcome(decision({ ending: 'MOVED', handoff: '1' }))).toBe('moved')
    expect(outcome(decision({ ending: 'MIGRATION_FAILED', handoff: '1' }))).toBe('failed')
    expect(outcome(decision({ ending: 'ENDED' }))).toBe('stayed')
  })
  test('who gave stands first, whoever keeps the record', () => {
    expect(ends(decision({}))).toEqual(['a', 'b'])
    expect(ends(decision({ role: 'receiver' }))).toEqual(['b', 'a'])
    expect(ends(decision({ peer: null }))).toEqual(['a', '?'])
  })
})

test('sentences begin with what decides', () => {
  const why = { code: 'PAUSED', about: 'host' as const, detail: '', meaning: 'An operator has paused the whole cluster.', remedy: '' }
  const host = { host: 'kvm1', state: 'active', reasons: [why] } as unknown as HostExplained
  expect(sayHost(host)).toBe('kvm1 gives nothing: an operator has paused the whole cluster.')
  expect(sayHost({ ...host, reasons: [] })).toBe('kvm1 is looking for somebody to give to.')
  const machine = { name: 'db', host: 'kvm1', reasons: [] } as unknown as MachineExplained
  expect(sayMachine(machine)).toBe('Nothing keeps db on kvm1: it moves when that helps.')
})
