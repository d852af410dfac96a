/** The settings of offbox.yaml: their rules (JSON Schema, draft 7) and defaults. docs/configuration.md lists them; a test compares. */

export interface Config {
  /** Slug; the same as in anchors.json. */
  readonly fleet: string
  readonly controller: {
    /** IPv4 address at which the controller listens and is reached. */
    readonly address: string
    readonly apiPort: number
    readonly enrolPort: number
    readonly bootPort: number
    /** ADDRESS:PORT of the fleet's witness; empty: none is asked. */
    readonly witness: string
  }
  readonly rollout: {
    readonly bakeSeconds: number
    readonly confirmSeconds: number
  }
  readonly lab: {
    readonly devices: number
  }
}

const port = (value: number) => ({ type: 'integer', minimum: 1, maximum: 65535, default: value })
const octet = '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'

export const CONFIG_SCHEMA = {
  type: 'object',
  additionalProperties: false,
  required: ['fleet'],
  properties: {
    fleet: { type: 'string', pattern: '^[a-z][a-z0-9-]{0,39}$', description: 'a slug: lower-case letters, digits and hyphens, at most 40' },
    controller: {
      type: 'object',
      additionalProperties: false,
      default: {},
      properties: {
        address: { type: 'string', pattern: `^${octet}(\\.${octet}){3}$`, default: '127.0.0.1', description: 'an IPv4 address' },
        apiPort: port(9340),
        enrolPort: port(9341),
        bootPort: port(8080),
        witness: { type: 'string', pattern: '^$|^[A-Za-z0-9.-]{1,253}:[0-9]{1,5}$', default: '', description: 'ADDRESS:PORT, or empty' },
      },
    },
    rollout: {
      type: 'object',
      additionalProperties: false,
      default: {},
      properties: {
        bakeSeconds: { type: 'integer', minimum: 0, maximum: 86400, default: 10 },
        confirmSeconds: { type: 'integer', minimum: 5, maximum: 90000, default: 60 },
      },
    },
    lab: {
      type: 'object',
      additionalProperties: false,
      default: {},
      properties: {
        devices: { type: 'integer', minimum: 1, maximum: 8, default: 3 },
      },
    },
  },
} as const
