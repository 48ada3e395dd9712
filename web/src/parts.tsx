// Parts that several pages are made of.

import type { ComponentChildren } from 'preact'
import { useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { Refused, ask } from './api'
import { clock, span, utc } from './format'
import { now } from './store'
import type { Why } from './types'

/** How long ago something was, with the time in a title. */
export function Age({ at }: { at: number }) {
  return (
    <time dateTime={utc(at)} title={utc(at)} class="num">
      {span(Math.max(1000, now.value - at))}
    </time>
  )
}

export function Clock({ at }: { at: number }) {
  return (
    <time dateTime={utc(at)} title={utc(at)} class="num dim">
      {clock(at, now.value)}
    </time>
  )
}

/** A reason code, linked to what it means. */
export function Code({ code }: { code: string }) {
  return <a class="code" href={`#/decisions?code=${encodeURIComponent(code)}`}><code>{code}</code></a>
}

/** Copies a text; says so. */
export function Copy({ text, label = 'Copy' }: { text: string; label?: string }) {
  const done = useSignal(false)
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text)
    } catch {
      // Without a secure origin there is no clipboard: the text can be marked by hand.
      getSelection()?.selectAllChildren(document.getElementById(`cmd-${text}`) ?? document.body)
      return
    }
    done.value = true
    setTimeout(() => (done.value = false), 1500)
  }
  return (
    <button type="button" class="quiet" onClick={copy} aria-live="polite">
      {done.value ? 'Copied' : label}
    </button>
  )
}

/** A command that does the same as the page, to be copied. */
export function Command({ text }: { text: string }) {
  return (
    <span class="command">
      <code id={`cmd-${text}`}>{text}</code> <Copy text={text} />
    </span>
  )
}

export interface Asked<T> {
  value: T | null
  error: string | null
  /** When it was asked last, by this computer's clock. */
  at: number
  again: () => void
}

/** Asks something, and asks again every so often while the page is seen. */
export function useAsked<T>(path: string | null, every = 10_000): Asked<T> {
  const state = useSignal<{ path: string | null; value: T | null; error: string | null; at: number }>({
    path: null,
    value: null,
    error: null,
    at: 0,
  })
  const look = useRef<() => void>(() => {})
  useEffect(() => {
    let over = false
    const load = async () => {
      if (!path || document.hidden) return
      try {
        const value = await ask<T>(path)
        if (!over) state.value = { path, value, error: null, at: Date.now() }
      } catch (error) {
        if (over) return
        const kept = state.value.path === path ? state.value.value : null
        state.value = { path, value: kept, error: told(error), at: Date.now() }
      }
    }
    look.current = load
    void load()
    const timer = setInterval(load, every)
    return () => {
      over = true
      clearInterval(timer)
    }
  }, [path, every])
  const { value, error, at } = state.value
  const current = state.value.path === path
  return { value: current ? value : null, error: current ? error : null, at, again: () => look.current() }
}

export const told = (error: unknown): string =>
  error instanceof Refused || error instanceof Error ? error.message : String(error)

export function Wrong({ text }: { text: string | null }) {
  return text ? <p class="wrong" role="alert">! {text}</p> : null
}

/** A text whose parts between backticks are code. */
export const ticked = (text: string): ComponentChildren =>
  text.split('`').map((part, i) => (i % 2 ? <code key={i}>{part}</code> : part))

/** Reasons in the order in which they decide. */
export function Reasons({ reasons }: { reasons: Why[] }) {
  return (
    <ol class="reasons">
      {reasons.map((why, i) => (
        <li key={why.code} class={i === 0 ? 'first' : ''}>
          <Code code={why.code} /> {ticked(why.meaning)}{' '}
          {why.detail && <span class="dim">{ticked(why.detail)}. </span>}
          {why.remedy !== 'Nothing.' && <span class="remedy">{ticked(why.remedy)}</span>}
        </li>
      ))}
    </ol>
  )
}

export interface Column<T> {
  name: string
  /** What the header's button sorts by, if it does. */
  sort?: string
  cell: (row: T) => ComponentChildren
  /** Left out on a narrow screen. */
  wide?: boolean
  figure?: boolean
}

const ROW = 34
const ROWS_MAX = 60

/** A table; a long one holds just the rows in view. */
export function Table<T>(props: {
  label: string
  columns: Column<T>[]
  rows: T[]
  id: (row: T) => string
  sorted?: string
  sort?: (by: string) => void
  none?: string
}) {
  const { label, columns, rows, id, sorted, sort, none = 'None.' } = props
  const first = useSignal(0)
  const long = rows.length > ROWS_MAX
  const from = long ? Math.min(first.value, Math.max(0, rows.length - ROWS_MAX)) : 0
  const shown = long ? rows.slice(from, from + ROWS_MAX) : rows
  if (!rows.length) return <p class="dim">{none}</p>
  const scroll = (event: Event) => {
    const at = Math.floor((event.currentTarget as HTMLElement).scrollTop / ROW) - 10
    // Rows are put in and taken out a few at a time.
    first.value = Math.max(0, at - (at % 10))
  }
  const body = (
    <table aria-label={label} aria-rowcount={rows.length + 1}>
      <thead>
        <tr>
          {columns.map((column) => (
            <th
              key={column.name}
              scope="col"
              class={`${column.wide ? 'wide' : ''} ${column.figure ? 'figure' : ''}`}
              {...(column.sort && column.sort === sorted ? { 'aria-sort': 'descending' as const } : {})}
            >
              {column.sort && sort ? (
                <button type="button" class="quiet" onClick={() => sort(column.sort!)}>
                  {column.name}
                  {column.sort === sorted ? ' ▾' : ''}
                </button>
              ) : (
                column.name
              )}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {from > 0 && <tr style={{ height: `${from * ROW}px` }} aria-hidden="true" />}
        {shown.map((row, i) => (
          <tr key={id(row)} aria-rowindex={from + i + 2}>
            {columns.map((column) => (
              <td key={column.name} class={`${column.wide ? 'wide' : ''} ${column.figure ? 'figure num' : ''}`}>
                {column.cell(row)}
              </td>
            ))}
          </tr>
        ))}
        {long && (
          <tr style={{ height: `${(rows.length - from - shown.length) * ROW}px` }} aria-hidden="true" />
        )}
      </tbody>
    </table>
  )
  return (
    <div class={long ? 'rows long' : 'rows'} {...(long ? { onScroll: scroll, tabIndex: 0, role: 'region', 'aria-label': label } : {})}>
      {body}
    </div>
  )
}
