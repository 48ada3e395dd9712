import type { Brief, MachineExplained } from './types'

export function HostActs(_: { brief: Brief }) {
  return null
}
export function MachineActs(_: { told: MachineExplained }) {
  return null
}
