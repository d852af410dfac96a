/** What `npm start -- …` was asked for. Pure. */
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { LAB } from './mesh.ts'

export interface LabOptions {
  /** Null: what offbox.yaml says. */
  readonly devices: number | null
  /** Agents as processes instead of virtual machines. */
  readonly local: boolean
  readonly once: boolean
  readonly json: boolean
  /** Absolute path. */
  readonly home: string
}

/** @throws ARGUMENT_INVALID an unknown option or a count out of range */
export function parseLabOptions(args: readonly string[], env: { OFFBOX_HOME?: string | undefined }): LabOptions {
  let values: { devices?: string; local?: boolean; once?: boolean; json?: boolean; home?: string }
  try {
    values = parseArgs({
      args: [...args],
      options: {
        devices: { type: 'string' },
        local: { type: 'boolean' },
        once: { type: 'boolean' },
        json: { type: 'boolean' },
        home: { type: 'string' },
        'no-install': { type: 'boolean' },
      },
    }).values
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${messageOf(error)}\nSee: npm start -- --help`)
  }
  const devices = values.devices === undefined ? null : Number(values.devices)
  if (devices !== null && (!Number.isInteger(devices) || devices < LAB.devicesMin || devices > LAB.devicesMax)) {
    throw new OffboxError('ARGUMENT_INVALID', `--devices must be ${LAB.devicesMin} to ${LAB.devicesMax}, not ${values.devices}`)
  }
  return {
    devices,
    local: values.local ?? false,
    once: values.once ?? false,
    json: values.json ?? false,
    home: resolve(values.home ?? env.OFFBOX_HOME ?? '.offbox'),
  }
}
