// What is asked of the agent. Addresses are relative: a proxy may put the page anywhere.

export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message)
  }
}

export async function ask<T>(path: string, method = 'GET', body?: unknown): Promise<T> {
  let answer: Response
  try {
    answer = await fetch(`api/v1/${path}`, {
      method,
      headers: { accept: 'application/json', 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  } catch {
    throw new Refused(0, 'The agent does not answer: the connection is gone.')
  }
  const text = await answer.text()
  let told: unknown
  try {
    told = text ? JSON.parse(text) : null
  } catch {
    told = null
  }
  if (answer.ok) return told as T
  const problem = told as { detail?: string; error?: string } | null
  throw new Refused(answer.status, problem?.detail ?? problem?.error ?? `${answer.status} ${text}`)
}

export const ofHost = (host: string, what: string): string =>
  `hosts/${encodeURIComponent(host)}/${what}`

/** Trades the key of a one-time link for a cookie. Returns why not, if not. */
export async function enter(): Promise<string | null> {
  const key = /^#k=([0-9a-f]+)/.exec(location.hash)?.[1]
  if (!key) return null
  history.replaceState(null, '', location.pathname)
  const answer = await fetch('session', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ key }),
  })
  if (answer.ok) return null
  const problem = (await answer.json().catch(() => null)) as { detail?: string } | null
  return problem?.detail ?? `The link was refused (${answer.status}).`
}
