/** The steps that are interrupted, each with what must be there before it begins and what a restart in its middle may find. */
import type { Device } from './device.ts'

export interface Step {
  readonly name: string
  /** Brings a device on which `active` runs (undefined: nothing) to where the step begins. */
  prepare(device: Device, active: string | undefined): Promise<Begun>
}

export interface Begun {
  readonly before: string | undefined
  /** What runs when the step has been answered, and the change it belongs to has ended by a restart if it was still open. */
  readonly after: string | undefined
  act(): Promise<unknown>
}

async function present(device: Device, active: string | undefined): Promise<string> {
  if (active !== undefined) return active
  const version = device.nextVersion()
  await device.confirm(await device.order('Install', version))
  return version
}

async function absent(device: Device, active: string | undefined): Promise<undefined> {
  if (active !== undefined) await device.remove()
}

const kinds = [
  { kind: 'Install', name: 'install', begin: absent },
  { kind: 'Upgrade', name: 'upgrade', begin: present },
] as const

export const STEPS: readonly Step[] = [
  ...kinds.flatMap(({ kind, name, begin }): Step[] => [
    {
      name,
      prepare: async (device, active) => {
        const before = await begin(device, active)
        const version = device.nextVersion()
        return { before, after: before, act: async () => await device.order(kind, version) }
      },
    },
    {
      name: `confirm of ${name}`,
      prepare: async (device, active) => {
        const before = await begin(device, active)
        const after = device.nextVersion()
        const id = await device.order(kind, after)
        return { before, after, act: async () => await device.confirm(id) }
      },
    },
    {
      name: `revert of ${name}`,
      prepare: async (device, active) => {
        const before = await begin(device, active)
        const id = await device.order(kind, device.nextVersion())
        return { before, after: before, act: async () => await device.revert(id) }
      },
    },
  ]),
  {
    name: 'remove',
    prepare: async (device, active) => ({ before: await present(device, active), after: undefined, act: async () => await device.remove() }),
  },
]
