// How large the page is, compressed: at most 80 KB of JavaScript.
import { readFileSync } from 'node:fs'
import { brotliCompressSync } from 'node:zlib'

const [dir] = process.argv.slice(2)
const LIMIT = 80 * 1024
const size = (name) => brotliCompressSync(readFileSync(`${dir}/${name}`)).length
const [js, css] = [size('app.js'), size('app.css')]
console.error(`desk: ${js} bytes of JavaScript and ${css} of CSS, compressed`)
if (js > LIMIT) {
  console.error(`desk: more than ${LIMIT} bytes of JavaScript`)
  process.exit(1)
}
