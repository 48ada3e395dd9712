import { useEffect, useRef } from 'preact/hooks'
import uPlot from 'uplot'
import { clock, span } from './format'

export interface Line {
  name: string
  colour: string
  dash?: number[]
  /** per mille; null is a gap */
  values: (number | null)[]
}

/** A chart over time, with the same as a table for whoever does not see it. */
export function Chart({ label, times, lines, tall = 130 }: {
  label: string
  /** Milliseconds. */
  times: number[]
  lines: Line[]
  tall?: number
}) {
  const ref = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | null>(null)
  const data = [times.map((at) => at / 1000), ...lines.map((line) => line.values)] as uPlot.AlignedData
  const colours = lines.map((line) => line.colour).join()
  useEffect(() => {
    const box = ref.current
    if (!box) return
    const make = () => {
      const style = getComputedStyle(box)
      const colour = (name: string) => style.getPropertyValue(name).trim()
      const axis = {
        stroke: colour('--dim'),
        grid: { stroke: colour('--line'), width: 1 },
        ticks: { show: false },
        font: '12px system-ui, sans-serif',
      }
      plot.current?.destroy()
      plot.current = new uPlot(
        {
          width: Math.max(120, box.clientWidth),
          height: tall,
          cursor: { y: false },
          legend: { show: false },
          scales: { y: { range: (_u, _low, high) => [0, Math.max(1100, high)] } },
          axes: [
            { ...axis, values: (_u, at) => at.map((s) => clock(s * 1000, s * 1000)), space: 90 },
            { ...axis, size: 48, values: (_u, at) => at.map((value) => `${Math.round(value / 10)} %`) },
          ],
          series: [
            {},
            ...lines.map((line) => ({
              label: line.name,
              stroke: colour(line.colour),
              width: 1.5,
              points: { show: false },
              spanGaps: false,
              ...(line.dash ? { dash: line.dash } : {}),
            })),
          ],
        },
        data,
        box,
      )
    }
    make()
    const resized = new ResizeObserver(() => {
      plot.current?.setSize({ width: Math.max(120, box.clientWidth), height: tall })
    })
    resized.observe(box)
    const dark = matchMedia('(prefers-color-scheme: dark)')
    dark.addEventListener('change', make)
    return () => {
      dark.removeEventListener('change', make)
      resized.disconnect()
      plot.current?.destroy()
      plot.current = null
    }
  }, [colours, tall])
  useEffect(() => plot.current?.setData(data), [times, lines])
  const last = times.length - 1
  const span_ = last > 0 ? span(times[last]! - times[0]!) : '0 s'
  const said = lines.map((line) => {
    const value = line.values[last]
    return `${line.name} ${value == null ? '?' : `${Math.round(value / 10)} %`}`
  })
  return (
    <figure class="chart">
      <div ref={ref} aria-hidden="true" />
      <figcaption class="dim">
        {label}, {span_}: now {said.join(', ')}.
      </figcaption>
    </figure>
  )
}
