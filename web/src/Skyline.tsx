import { useSignal } from '@preact/signals'
import { useEffect, useMemo, useRef } from 'preact/hooks'
import { many, score, share } from './format'
import { go, toHost, toMachine } from './route'
import {
  type Arc,
  type Bar,
  type Measure,
  type Picture,
  binned,
  draw,
  hostAt,
  inOrder,
  frame,
  level,
  machineAt,
} from './sky'

/** More arcs than this tell nothing: the line under the picture counts them. */
const ARCS_MAX = 12
/** On a narrow screen more hosts than this are shown some to a bar. */
const BARS_NARROW = 100

interface Props {
  bars: Bar[]
  measure: Measure
  moves?: { name: string; from: string; to: string; done: number | null }[]
  ghost?: ReadonlyMap<string, number> | null
  label: string
  tall?: boolean
}

export function Skyline({ bars: all, measure, moves = [], ghost = null, label, tall = false }: Props) {
  const ref = useRef<HTMLCanvasElement>(null)
  const host = useSignal(-1)
  const machine = useSignal(-1)
  const wide = useSignal(0)
  const bars = useMemo(
    () => (wide.value > 0 && wide.value < 640 ? binned(all, BARS_NARROW) : all),
    [all, wide.value],
  )
  const picture: Picture = useMemo(() => {
    // Few arcs are found by name, and hosts are not looked through where there are none.
    const at = new Map(bars.map((bar, i) => [bar.name, i]))
    const arcs: Arc[] = moves.flatMap(({ name, from, to, done }) => {
      const [a, b] = [at.get(from), at.get(to)]
      return a === undefined || b === undefined ? [] : [{ name, from: a, to: b, done }]
    })
    const most = Math.max(1100, ...bars.map((bar) => bar.top ?? 0))
    return {
      bars,
      arcs: arcs.length > ARCS_MAX ? [] : arcs,
      level: level(all),
      host: -1,
      machine: -1,
      max: Math.ceil(most / 50) * 50,
      ghost,
    }
  }, [all, bars, moves, ghost])

  useEffect(() => {
    const canvas = ref.current
    if (!canvas) return
    const paint = () => draw(canvas, { ...picture, host: host.value, machine: machine.value })
    paint()
    const resized = new ResizeObserver(() => {
      wide.value = canvas.clientWidth
      paint()
    })
    resized.observe(canvas)
    const themes = ['(prefers-color-scheme: dark)', '(prefers-contrast: more)', '(forced-colors: active)']
    const media = themes.map((query) => matchMedia(query))
    media.forEach((one) => one.addEventListener('change', paint))
    return () => {
      resized.disconnect()
      media.forEach((one) => one.removeEventListener('change', paint))
    }
  }, [picture, host.value, machine.value])

  const bar = bars[host.value]
  const segment =
    bar && ref.current && machine.value >= 0
      ? inOrder(bar, frame(picture, ref.current.clientWidth, ref.current.clientHeight))[machine.value]
      : undefined
  const open = () => {
    if (!bar || bar.hosts > 1) return
    go(segment?.name ? toMachine(segment.name, bar.name) : toHost(bar.name))
  }
  const key = (event: KeyboardEvent) => {
    const step: Record<string, [number, number]> = {
      ArrowRight: [1, 0],
      ArrowLeft: [-1, 0],
      ArrowUp: [0, 1],
      ArrowDown: [0, -1],
    }
    const moved = step[event.key]
    if (moved) {
      event.preventDefault()
      if (moved[0]) {
        host.value = Math.max(0, Math.min(bars.length - 1, host.value + moved[0]))
        machine.value = -1
      } else {
        const most = (bars[host.value]?.segments.length ?? 0) - 1
        machine.value = Math.max(-1, Math.min(most, machine.value + moved[1]))
      }
    } else if (event.key === 'Home' || event.key === 'End') {
      event.preventDefault()
      host.value = event.key === 'Home' ? 0 : bars.length - 1
      machine.value = -1
    } else if (event.key === 'Enter') open()
  }
  const point = (event: PointerEvent) => {
    const canvas = ref.current
    if (!canvas) return
    const [width, height] = [canvas.clientWidth, canvas.clientHeight]
    const at = hostAt(picture, width, height, event.offsetX)
    host.value = at
    machine.value = at < 0 ? -1 : machineAt(picture, width, height, at, event.offsetY)
  }
  return (
    <>
      <canvas
        ref={ref}
        class={tall ? 'sky tall' : 'sky'}
        tabIndex={0}
        role="img"
        aria-label={label}
        aria-description="Left and right choose a host, up and down a machine, Enter opens it. The table says the same."
        onKeyDown={key}
        onPointerMove={point}
        onPointerLeave={() => {
          host.value = -1
          machine.value = -1
        }}
        onClick={open}
      />
      <p class="under dim" aria-live="polite">
        {bar ? tellBar(bar, measure) : moves.length > ARCS_MAX ? `${many(moves.length, 'machine')} on their way` : ' '}
        {segment ? ` · ${segment.name || 'machines'} ${share(segment.size, 1)}, waiting ${score(segment.waiting)}` : ''}
      </p>
    </>
  )
}

function tellBar(bar: Bar, measure: Measure): string {
  if (bar.hosts > 1) return `${bar.name}: ${many(bar.hosts, 'host')}, mean ${share(bar.top, 1)}`
  const state = bar.state === 'active' ? '' : `, ${bar.state}`
  const silent = bar.silent ? ', does not answer: as last heard' : ''
  const limit = bar.limit === null ? '' : `, acts above ${share(bar.limit)}`
  const machines = measure === 'waiting' ? '' : `, ${many(bar.segments.length, 'machine')}`
  return `${bar.name}: ${share(bar.top, 1)}${limit}${machines}${state}${silent}`
}

export function Legend({ ghost = false }: { ghost?: boolean }) {
  return (
    <ul class="legend" aria-label="What colours and marks mean">
      <li><i class="c-seg" />has what it wants</li>
      <li><i class="c-wait" />△ waits</li>
      <li><i class="c-starve" />▲ starves</li>
      <li><i class="c-new" />on its way</li>
      <li><i class="c-silent" />? silent, as last heard</li>
      <li><i class="c-level" />level: mean of the hosts that answer</li>
      {ghost && <li><i class="c-ghost" />what it would be</li>}
    </ul>
  )
}
