/** The lab's devices as machines that can be switched on and off: virtual machines, or agents in namespaces. */
import { createHash } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Config } from '../config/schema.ts'
import type { Home } from '../home/home.ts'
import type { Accelerator } from './accelerator.ts'
import { createLocalAgent } from './local-agent.ts'
import type { LabDevice } from './mesh.ts'
import { LAB_ADDRESS, type LabNetwork } from './network.ts'
import type { LabLog } from './process.ts'
import { createVm, type Vm } from './vm.ts'

const root = join(import.meta.dirname, '../..')
const API_PORT = 9339

export interface LabMachine {
  readonly device: LabDevice
  powerOn(): Promise<void>
  powerOff(): Promise<void>
  close(): Promise<void>
  readonly consoleFile: string
  /** The end of its console, for a message that explains a failure. */
  lastWords(): string
  secondsSincePowerOn(): number
  /** Seconds from power-on to the agent's `serving`, as its console shows it. @throws DEADLINE_PASSED */
  secondsToServing(timeoutMs: number): Promise<number>
  /** Whether an enrolment at this wall time (Unix milliseconds) is of the present power-on. */
  enrolledSincePowerOn(enrolledAtMs: number): boolean
}

export interface DevicesInput {
  readonly devices: readonly LabDevice[]
  /** The first so many are virtual machines. */
  readonly virtual: number
  /** Required when any is. */
  readonly accelerator: Accelerator | null
  readonly home: Home
  readonly network: LabNetwork
  readonly config: Config
  readonly birdCommand: string
  readonly ipCommand: string
  readonly signal: AbortSignal
  readonly log: LabLog
  readonly say: (text: string) => void
}

/** Plugs the machines in; they are off. */
export async function createDevices(input: DevicesInput): Promise<LabMachine[]> {
  const { accelerator, devices, virtual, say } = input
  if (accelerator) say(`${virtual} virtual machines under ${accelerator.name.toUpperCase()} (${accelerator.why.split(' (')[0]}), booting over the network`)
  if (virtual < devices.length) say(`${devices.length - virtual} agents as processes in network namespaces`)
  return await Promise.all(
    devices.map(async (device, index) =>
      machine(input, device, accelerator && index < virtual ? await virtualMachine(input, device, accelerator) : await local(input, device)),
    ),
  )
}

function consoleFileOf(home: Home, device: LabDevice): string {
  return join(home.path, `lab/${device.id}.console`)
}

type Switched = Pick<Vm, 'console' | 'poweredOnAtMs' | 'powerOn' | 'powerOff' | 'close'>

function machine({ home }: DevicesInput, device: LabDevice, what: Switched): LabMachine {
  let poweredOnWallMs = Number.POSITIVE_INFINITY
  let firstLine = 0
  return {
    device,
    consoleFile: consoleFileOf(home, device),
    powerOn: () => {
      poweredOnWallMs = Date.now()
      firstLine = what.console.count
      return what.powerOn()
    },
    powerOff: () => what.powerOff(),
    close: () => what.close(),
    lastWords: () => what.console.tail().join('\n'),
    secondsToServing: async (timeoutMs) => {
      await what.console.waitFor(/"msg":"serving"/, { timeoutMs, from: firstLine })
      return (performance.now() - what.poweredOnAtMs) / 1000
    },
    secondsSincePowerOn: () => (performance.now() - what.poweredOnAtMs) / 1000,
    enrolledSincePowerOn: (enrolledAtMs) => enrolledAtMs >= poweredOnWallMs,
  }
}

async function virtualMachine({ home, network, signal, log }: DevicesInput, device: LabDevice, accelerator: Accelerator): Promise<Switched> {
  const consoleFile = consoleFileOf(home, device)
  return await createVm({ name: device.id, network, port: device.port, serial: device.serial, accelerator, consoleFile, signal, log })
}

async function local(input: DevicesInput, device: LabDevice): Promise<Switched> {
  const { home, network, config, birdCommand, ipCommand, signal, log } = input
  // Not below the home: BIRD's control socket is there, and the path of a unix socket has at most 107 bytes.
  const folder = join(tmpdir(), `offbox-${createHash('sha256').update(home.path).digest('hex').slice(0, 12)}-${device.id}`)
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const stateDir = join(folder, 'state')
  const runDir = join(folder, 'run')
  const configFile = join(folder, 'agent.json')
  const { mac, address } = device.port
  const controller = { address: LAB_ADDRESS, port: config.controller.enrolPort }
  const facts = {
    boot: 'local',
    serial: device.serial,
    mac,
    address,
    port: API_PORT,
    stateDir,
    runDir,
    controller,
    anchorsFile: home.anchors,
    birdCommand,
    ipCommand,
  }
  await writeFile(configFile, JSON.stringify(facts, null, 2), { mode: 0o600 })
  const agent = await createLocalAgent({
    name: device.id,
    network,
    port: device.port,
    program: join(root, 'dist/agent/main.mjs'),
    configFile,
    stateDirs: [stateDir, runDir],
    consoleFile: consoleFileOf(home, device),
    signal,
    log,
  })
  return {
    console: agent.console,
    get poweredOnAtMs() {
      return agent.poweredOnAtMs
    },
    powerOn: () => agent.powerOn(),
    powerOff: () => agent.powerOff(),
    close: async () => {
      await agent.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
