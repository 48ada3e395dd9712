// Every state of the page is in the fragment of its address, so that every view is a link.

import { signal } from '@preact/signals'

export interface Route {
  path: string[]
  query: URLSearchParams
}

export function parse(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2)
  return {
    path: path.split('/').filter(Boolean).map(decodeURIComponent),
    query: new URLSearchParams(query),
  }
}

export function link(path: string[], query: Record<string, string | null | undefined> = {}): string {
  const told = Object.entries(query).filter((pair): pair is [string, string] => !!pair[1])
  const text = new URLSearchParams(told).toString()
  return `#/${path.map(encodeURIComponent).join('/')}${text ? `?${text}` : ''}`
}

export const route = signal<Route>(parse(typeof location === 'undefined' ? '' : location.hash))

/** The same view with something else in its query. */
export function withQuery(change: Record<string, string | null>): string {
  const query = Object.fromEntries(route.value.query)
  return link(route.value.path, { ...query, ...change })
}

/** Goes to a view. At once: the browser tells of the change only later, and the next key may come before. */
export const go = (to: string): void => {
  location.hash = to
  route.value = parse(location.hash)
}

/** Changes the query without a step to go back to. */
export const turn = (change: Record<string, string | null>): void => {
  history.replaceState(null, '', withQuery(change))
  route.value = parse(location.hash)
}

export const toHost = (host: string): string => link(['hosts', host])
export const toMachine = (name: string, host?: string): string => link(['machines', name], { host })
