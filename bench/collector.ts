/** Collects the audit log of the agent under load, as a controller does all the time, in a process of its own. Its order comes over stdin, as JSON. */
import { text } from 'node:stream/consumers'
import type { Anchors } from '../core/anchors.ts'
import { systemClock as clock } from '../core/clock.ts'
import { Collector } from '../fleet/audit/collector.ts'
import { headSigner } from '../fleet/audit/identity.ts'
import type { Inventory } from '../fleet/device/inventory.ts'
import { newRecord } from '../fleet/device/record.ts'
import type { Identity } from '../fleet/home/home.ts'

export interface CollectorOrder {
  readonly fleet: string
  readonly caPem: string
  readonly deviceId: string
  readonly port: number
  readonly controller: Identity
  readonly signer: Identity
  readonly directory: string
}

const { fleet, caPem, deviceId, port, controller, signer, directory } = JSON.parse(await text(process.stdin)) as CollectorOrder
const record = { ...newRecord({ deviceId, serial: 'SN', mac: '02:00:00:00:00:01' }), address: '127.0.0.1', port, enrolments: 1 }
const inventory = { list: () => [record], get: () => record, watch: () => () => {} } as unknown as Inventory
const anchors: Anchors = { fleet, caPem, bundleKeys: new Map() }
const say = (fields: object, message: string) => void process.stderr.write(`${message} ${JSON.stringify(fields)}\n`)
const log = { debug: () => {}, info: () => {}, warn: say, error: say }
const dialer = { anchors, identity: controller }
const collector = new Collector({ dialer, inventory, clock, log, sign: headSigner(signer), directoryOf: () => directory })
collector.start()
const timer = setInterval(async () => {
  // Whoever waits for the first head is told once.
  const { countersigned } = await collector.collection(deviceId)
  if (!countersigned) return
  clearInterval(timer)
  process.stdout.write('collecting\n')
}, 50)
