/** Reads a routing configuration that a user wrote (YAML or JSON): the fields of RoutingConfig in routing.proto, in camel case. */
import { readFile } from 'node:fs/promises'
import { Ajv } from 'ajv'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { RoutingConfigInit } from '../../proto/gen/routing.ts'
import { parseYaml } from './config.ts'

const octet = '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
const address = { type: 'string', pattern: `^${octet}(\\.${octet}){3}$`, description: 'an IPv4 address' }
const asNumber = { type: 'integer', minimum: 1, maximum: 4294967295 }

const SCHEMA = {
  type: 'object',
  additionalProperties: false,
  required: ['routerId', 'localAs'],
  properties: {
    routerId: address,
    localAs: asNumber,
    neighbors: {
      type: 'array',
      maxItems: 512,
      description: 'a list of at most 512 neighbors',
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['name', 'address', 'peerAs'],
        properties: {
          name: { type: 'string', pattern: '^[a-z0-9_]{1,32}$', description: 'lower-case letters, digits and underscore, 1 to 32' },
          address,
          peerAs: asNumber,
          holdTimeS: { type: 'integer', minimum: 3, maximum: 65535 },
          importLimit: { type: 'integer', minimum: 1, maximum: 4294967295 },
        },
      },
    },
    staticRoutes: {
      type: 'array',
      maxItems: 100_000,
      description: 'a list of at most 100000 routes',
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['prefix'],
        properties: {
          prefix: { type: 'string', pattern: `^${octet}(\\.${octet}){3}/([12]?[0-9]|3[0-2])$`, description: 'an IPv4 prefix, e.g. 10.0.0.0/8' },
          via: address,
          blackhole: { type: 'boolean' },
        },
      },
    },
  },
} as const

const validate = new Ajv({ allErrors: true, verbose: true, strict: false }).compile<RoutingConfigInit>(SCHEMA)

/** @throws CONFIG_INVALID with file, line and column of every mistake */
export async function readRoutingFile(path: string): Promise<RoutingConfigInit> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    throw new OffboxError('CONFIG_INVALID', `${path} cannot be read: ${messageOf(error)}`, { cause: error })
  }
  return parseYaml(text, path, validate)
}
