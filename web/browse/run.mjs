// The page in a browser, over recordings that `evenkeel ui --replay` serves by the real handlers.
//
//   node web/browse/run.mjs PROGRAM DIRECTORY
//
// DIRECTORY holds small.rec and large.rec and gets the pictures. What must hold: axe finds nothing on
// any page, light or dark; no page is wider than the screen at 320 px; nothing is asked of another
// origin; no error in the console; a large cluster stays small in memory and on the page. Times are
// printed beside their aims and fail nothing: on a machine that runs other things, too, they say little.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { createInterface } from 'node:readline'
import axe from 'axe-core'
import { chromium } from 'playwright-core'

const [program, dir] = process.argv.slice(2)
const STREAM_S = Number(process.env.DESK_STREAM_S ?? 20)
const failures = []
const children = []
const fail = (what) => {
  failures.push(what)
  console.error(`FAILED  ${what}`)
}
const held = (what) => console.error(`held    ${what}`)
const check = (ok, what) => (ok ? held(what) : fail(what))

/** A recording that is served, and the link to it. */
async function serve(name, speed) {
  const child = spawn(program, ['ui', '--replay', `${dir}/${name}.rec`, '--speed', String(speed)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  children.push(child)
  for await (const line of createInterface({ input: child.stdout })) {
    const link = line.trim()
    // While the page is worked on, its files are taken from where it was built to.
    const files = process.env.DESK_DIST
    return { child, link: files ? await proxied(link, '/', files) : link }
  }
  throw new Error(`${program} ui --replay ended before it printed a link`)
}

const TYPES = { html: 'text/html', js: 'text/javascript', css: 'text/css' }

/** The same behind a proxy that puts it under a path; the page's files from a directory, if one is named. */
async function proxied(link, path, files) {
  const { host, hash } = new URL(link)
  const [name, port] = host.split(':')
  const proxy = createServer((asked, answer) => {
    if (!asked.url.startsWith(path)) return answer.writeHead(404).end()
    const url = `/${asked.url.slice(path.length)}`
    const file = url === '/' ? 'index.html' : url.slice(1)
    if (files && /^(index.html|app.js|app.css)$/.test(file)) {
      const type = TYPES[file.split('.').pop()]
      const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
      answer.writeHead(200, { 'content-type': type, 'content-security-policy': policy })
      return answer.end(readFileSync(`${files}/${file}`))
    }
    const headers = { ...asked.headers, host }
    const passed = request({ host: name, port, path: url, method: asked.method, headers }, (told) => {
      answer.writeHead(told.statusCode, told.headers)
      told.pipe(answer)
    })
    passed.on('error', () => answer.destroy())
    answer.on('close', () => passed.destroy())
    asked.pipe(passed)
  })
  await new Promise((listening) => proxy.listen(0, '127.0.0.1', listening))
  proxy.unref()
  return `http://127.0.0.1:${proxy.address().port}${path}${hash}`
}

const args = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** A page that has followed the link; what it asks for and complains of is kept. */
async function open(browser, link, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
  const page = await context.newPage()
  const origin = new URL(link).origin
  page.on('request', (request) => {
    const url = request.url()
    if (!url.startsWith(`${origin}/`) && !url.startsWith('data:')) fail(`asked of another origin: ${url}`)
  })
  page.on('pageerror', (error) => fail(`error on ${page.url()}: ${error.message}`))
  page.on('console', (message) => {
    if (message.type() === 'error' && !expected(message.text())) fail(`console on ${page.url()}: ${message.text()}`)
  })
  await page.goto(link)
  await page.waitForSelector('h1')
  return { context, page, cookies: await context.cookies() }
}
/** A host that is down has no explanation, which a browser counts as an error. */
const expected = (text) => /status of 404|status of 405/.test(text)

async function to(page, hash) {
  await page.evaluate((there) => (location.hash = there), hash)
  await page.waitForFunction(() => document.querySelector('h1') && !/^Asking/.test(document.querySelector('h1').textContent))
}

async function audit(page, what) {
  // An extension of the page's policy would hide what the policy forbids: axe is put in as the debugger does.
  await page.evaluate(axe.source)
  const { violations } = await page.evaluate(() => globalThis.axe.run())
  const told = violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join(', ')}`)
  check(!told.length, `axe on ${what}${told.length ? `: ${told.join('; ')}` : ''}`)
}

const narrow = (page) =>
  page.evaluate(() => document.scrollingElement.scrollWidth <= document.documentElement.clientWidth)

async function pages(browser) {
  // Played so fast that it is at its end at once, where one host is down.
  const { child, link } = await serve('small', 10_000)
  const { context, page, cookies } = await open(browser, link)
  await page.waitForFunction(() => /3 of 4 hosts/.test(document.querySelector('.live')?.textContent ?? ''))
  check(!(await page.url()).includes('k='), 'the key of the link does not stay in the address')
  const exchange = await page.evaluate(async () => {
    const history = await (await fetch('api/v1/history?limit=1&moves=true')).json()
    return history.decisions[0].record.exchange
  })
  const views = {
    cluster: '#/',
    table: '#/?view=table&needs=all',
    waiting: '#/?by=waiting&sort=waiting',
    host: '#/hosts/kvm1',
    down: '#/hosts/kvm3',
    machine: '#/machines/build-1',
    stranger: '#/machines/nobody',
    decisions: '#/decisions?tab=stayed',
    exchange: `#/decisions/${exchange}`,
    inbox: '#/inbox',
  }
  for (const [name, hash] of Object.entries(views)) {
    await to(page, hash)
    await audit(page, `${name}, light`)
    await page.screenshot({ path: `${dir}/${name}-light.png`, fullPage: true })
  }
  await keyboard(page)
  const refused = await page.evaluate(async () => (await fetch('api/v1/hosts/kvm1/pause', { method: 'PUT' })).status)
  check(refused === 405, 'nothing can be done in a recording')
  await context.close()

  const looks = [
    ['dark', { colorScheme: 'dark' }],
    ['phone', { colorScheme: 'dark', viewport: { width: 390, height: 844 }, hasTouch: true }],
    ['narrow', { viewport: { width: 320, height: 700 }, reducedMotion: 'reduce' }],
    ['forced', { forcedColors: 'active' }],
  ]
  for (const [look, options] of looks) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
    await context.addCookies(cookies)
    const page = await context.newPage()
    page.on('pageerror', (error) => fail(`error, ${look}: ${error.message}`))
    await page.goto(link.split('#')[0])
    await page.waitForSelector('canvas')
    for (const [name, hash] of Object.entries(views)) {
      await to(page, hash)
      if (look === 'dark') await audit(page, `${name}, dark`)
      check(await narrow(page), `${name} is not wider than the screen, ${look}`)
      await page.screenshot({ path: `${dir}/${name}-${look}.png`, fullPage: look !== 'dark' })
    }
    await context.close()
  }
  child.kill()
}

/** Whoever has no mouse finds and opens a host and a machine. */
async function keyboard(page) {
  await to(page, '#/')
  await page.locator('canvas').focus()
  await page.keyboard.press('ArrowRight')
  await page.keyboard.press('ArrowRight')
  const under = await page.locator('.under').first().textContent()
  check(/kvm/.test(under ?? ''), 'the line under the picture says which host the cursor is at')
  await page.keyboard.press('Enter')
  await page.waitForFunction(() => location.hash.startsWith('#/hosts/'))
  held('Enter opens the host at the cursor')
  await page.keyboard.press('/')
  await page.waitForFunction(() => document.activeElement?.tagName === 'INPUT')
  await page.keyboard.type('build')
  await page.waitForSelector('[role=option]')
  await page.keyboard.press('Enter')
  await page.waitForFunction(() => location.hash.startsWith('#/machines/build-1'))
  held('a machine is found and opened by its name')
  await page.keyboard.press('c')
  await page.keyboard.press('t')
  await page.waitForSelector('table[aria-label="All hosts"]')
  held('the picture is a table at a key')
  await page.keyboard.press('t')
}

/** A proxy may put the page under any path: nothing in it names the root. */
async function underPath(browser) {
  const { child, link } = await serve('small', 100)
  const { context, page } = await open(browser, await proxied(link, '/x/y/'))
  await page.waitForSelector('canvas')
  await to(page, '#/hosts/kvm1')
  check(page.url().includes('/x/y/#/hosts/kvm1'), 'the page works under the path of a proxy')
  await context.close()
  child.kill()
}

async function budgets(browser) {
  const { child, link } = await serve('large', 10)
  const { context, page } = await open(browser, link)
  await page.waitForFunction(() => /500 of 500 hosts/.test(document.querySelector('.live')?.textContent ?? ''), null, {
    timeout: 60_000,
  })
  // A second visit, as everybody's is but the first: the stream begins with the whole cluster.
  await page.reload()
  await page.evaluate(() => {
    globalThis.tasks = []
    new PerformanceObserver((list) => globalThis.tasks.push(...list.getEntries().map((e) => e.duration))).observe({
      type: 'longtask',
    })
  })
  await page.waitForSelector('canvas')
  const before = await page.evaluate(() => document.querySelector('h1').textContent)
  await page.waitForTimeout(STREAM_S * 1000)
  const { paint, longest, heap, rows } = await page.evaluate(() => ({
    paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0,
    longest: Math.max(0, ...globalThis.tasks),
    heap: performance.memory?.usedJSHeapSize ?? 0,
    rows: document.querySelectorAll('tr').length,
  }))
  held(`500 hosts, 10,000 machines: "${before}"`)
  const aim = (what, value, most, unit) => {
    const text = `${what}: ${Math.round(value)} ${unit}, aim ${most} ${unit}${value > most ? ' MISSED' : ''}`
    if (unit === 'ms') console.error(`time    ${text}`)
    else check(value <= most, text)
  }
  aim('first paint', paint, 1000, 'ms')
  aim(`longest task in ${STREAM_S} s of stream`, longest, 100, 'ms')
  aim('heap', heap / 2 ** 20, 150, 'MiB')
  await page.screenshot({ path: `${dir}/large-light.png` })
  await page.keyboard.press('t')
  await page.waitForSelector('.rows.long table')
  const inTable = await page.locator('.rows.long tr').count()
  check(inTable < 80 && rows < 80, `a table of 500 hosts holds the rows in view: ${inTable}`)
  await audit(page, 'large, table')
  await page.screenshot({ path: `${dir}/large-table.png` })
  const phone = await browser.newContext({ viewport: { width: 390, height: 844 }, colorScheme: 'dark' })
  await phone.addCookies(await context.cookies())
  const small = await phone.newPage()
  await small.goto(link.split('#')[0])
  await small.waitForSelector('canvas')
  check(await narrow(small), '500 hosts are not wider than a phone')
  await small.screenshot({ path: `${dir}/large-phone.png` })
  await phone.close()
  await context.close()
  child.kill()
}

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args })
try {
  await pages(browser)
  await underPath(browser)
  if (process.env.DESK_LARGE !== "0") await budgets(browser)
} finally {
  children.forEach((child) => child.kill())
  await browser.close()
}
console.error(`desk: ${failures.length} failures; pictures are in ${dir}`)
process.exit(failures.length ? 1 : 0)
