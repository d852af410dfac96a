/** Reads offbox.yaml and what else users write by hand. Every complaint names file, line and column, what stands there and what is expected. */
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import { type Document, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml'
import { OffboxError } from '../../core/errors.ts'
import { readIfThere } from '../home/atomic.ts'
import { CONFIG_SCHEMA, type Config } from './schema.ts'

/** A configuration of ours has under 1 kB. */
export const configBytesMax = 256 * 1024
/** A routing configuration may list 100,000 routes. */
export const documentBytesMax = 16 * 1024 * 1024

const validate = new Ajv({ allErrors: true, useDefaults: true, verbose: true }).compile<Config>(CONFIG_SCHEMA)

/**
 * The configuration in `path`.
 * @throws CONFIG_INVALID one line for each mistake: FILE:LINE:COLUMN: what is wrong, what is expected
 */
export async function readConfig(path: string): Promise<Config> {
  const bytes = await readIfThere(path)
  if (!bytes) throw new OffboxError('CONFIG_INVALID', `${path} does not exist; offbox init writes one`)
  return parseConfig(bytes.toString('utf8'), path)
}

/** @param file its name, for messages */
export function parseConfig(text: string, file: string): Config {
  if (text.length > configBytesMax) throw new OffboxError('CONFIG_INVALID', `${file}:1:1: the file has more than ${configBytesMax} bytes`)
  return parseYaml(text, file, validate)
}

/**
 * Parses YAML (or JSON, which is YAML) against a compiled schema and fills its defaults in. Compile with `allErrors` and `verbose`.
 * @throws CONFIG_INVALID
 */
export function parseYaml<T>(text: string, file: string, validate: ValidateFunction<T>): T {
  if (text.length > documentBytesMax) throw new OffboxError('CONFIG_INVALID', `${file}:1:1: the file has more than ${documentBytesMax} bytes`)
  const lines = new LineCounter()
  // Aliases could expand a small file into a huge value; a configuration of ours has no use for them.
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true })
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return `${file}:${line}:${col}`
  }
  if (document.errors.length > 0) {
    throw refuse(document.errors.map((error) => `${at(error.pos[0])}: ${error.message.replace(/\s+/g, ' ')}`))
  }
  let raw: unknown
  try {
    raw = document.toJS({ maxAliasCount: 0 })
  } catch (error) {
    throw refuse([`${file}:1:1: aliases (*name) are not allowed`], error)
  }
  if (validate(raw)) return raw
  throw refuse([...new Set((validate.errors ?? []).map((error) => describe(error, document, at)))])
}

function refuse(complaints: string[], cause?: unknown): OffboxError {
  return new OffboxError('CONFIG_INVALID', complaints.join('\n'), { cause })
}

function describe(error: ErrorObject, document: Document, at: (offset: number) => string): string {
  const path = error.instancePath.split('/').slice(1)
  const name = path.join('.') || 'the file'
  if (error.keyword === 'additionalProperties') {
    const { additionalProperty: key } = error.params as { additionalProperty: string }
    const known = Object.keys((error.parentSchema as { properties: object }).properties)
    return `${at(offsetOf(document, [...path, key], 'key'))}: unknown setting ${[...path, key].join('.')}; known here: ${known.join(', ')}`
  }
  if (error.keyword === 'required') {
    const { missingProperty } = error.params as { missingProperty: string }
    return `${at(offsetOf(document, path, 'value'))}: ${[...path, missingProperty].join('.')} is missing`
  }
  return `${at(offsetOf(document, path, 'value'))}: ${name} must be ${expected(error)}, not ${JSON.stringify(error.data)}`
}

function expected(error: ErrorObject): string {
  const schema = error.parentSchema as { type?: string; description?: string; minimum?: number; maximum?: number }
  if (schema.description) return schema.description
  if (schema.type === 'integer') return `an integer from ${schema.minimum} to ${schema.maximum}`
  return schema.type === 'object' ? 'a map of settings' : `a ${schema.type}`
}

/** Where a setting stands in the text: its key or its value; as near as can be told when it is not there. */
function offsetOf(document: Document, path: readonly string[], part: 'key' | 'value'): number {
  let node: unknown = document.contents
  let offset = (node as Node | null)?.range?.[0] ?? 0
  for (const [index, name] of path.entries()) {
    if (isSeq(node)) {
      const item = node.items[Number(name)] as Node | undefined
      offset = item?.range?.[0] ?? offset
      node = item
      continue
    }
    if (!isMap(node)) break
    const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === name)
    if (!pair) break
    const key = pair.key as Node
    const value = pair.value as Node | null
    const wanted = index === path.length - 1 && part === 'key' ? key : (value ?? key)
    offset = wanted.range?.[0] ?? key.range?.[0] ?? offset
    node = value
  }
  return offset
}
