/** grpc.reflection, v1 and v1alpha (the same messages): what this device serves, and the descriptors of it. */
import { status as Status } from '@grpc/grpc-js'
import { apiOf } from '../../core/manifest.ts'
import type { Method, Plain } from '../../proto/codec.ts'
import { FILES as ACCTZ } from '../../proto/gen/acctz.descriptor.ts'
import { FILES as AUDIT } from '../../proto/gen/audit.descriptor.ts'
import { FILES as DEVICE } from '../../proto/gen/device.descriptor.ts'
import { FILES as HEALTH } from '../../proto/gen/health.descriptor.ts'
import { FILES as LIFECYCLE } from '../../proto/gen/lifecycle.descriptor.ts'
import { ServerReflectionMethods as AlphaMethods } from '../../proto/gen/reflection-alpha.ts'
import { FILES as REFLECTION_ALPHA } from '../../proto/gen/reflection-alpha.descriptor.ts'
import { FILES as REFLECTION } from '../../proto/gen/reflection.descriptor.ts'
import { type ServerReflectionRequest, ServerReflectionMethods, type ServerReflectionResponseInit } from '../../proto/gen/reflection.ts'
import { FILES as TRUST } from '../../proto/gen/trust.descriptor.ts'
import type { Supervisor } from '../supervisor/types.ts'
import { OWN_APIS } from './authorize.ts'
import { DescriptorIndex } from './descriptor-index.ts'
import type { Serve } from './serve.ts'

const OWN_FILES = [...LIFECYCLE, ...DEVICE, ...TRUST, ...AUDIT, ...ACCTZ, ...HEALTH, ...REFLECTION, ...REFLECTION_ALPHA].map(([, base64]) =>
  Buffer.from(base64, 'base64'),
)

export function serveReflection(serve: Serve, supervisor: Pick<Supervisor, 'methods' | 'descriptors'>): void {
  async function* answer(requests: AsyncIterable<Plain<ServerReflectionRequest>>): AsyncGenerator<ServerReflectionResponseInit> {
    for await (const request of requests) yield { validHost: request.host, originalRequest: request, ...answerOf(request, supervisor) }
  }
  serve.bidi(ServerReflectionMethods.ServerReflectionInfo, answer)
  serve.bidi(AlphaMethods.ServerReflectionInfo as unknown as Method<ServerReflectionRequest, ServerReflectionResponseInit>, answer)
}

/** Exported for its test. */
export function answerOf(
  request: Partial<Plain<ServerReflectionRequest>>,
  supervisor: Pick<Supervisor, 'methods' | 'descriptors'>,
): ServerReflectionResponseInit {
  if (request.listServices !== undefined) {
    const names = new Set([...OWN_APIS, ...supervisor.methods().map(({ path }) => apiOf(path))])
    return { listServicesResponse: { service: [...names].sort().map((name) => ({ name })) } }
  }
  const index = new DescriptorIndex()
  for (const bytes of [...OWN_FILES, ...supervisor.descriptors()]) index.add(bytes)
  if (request.fileByFilename !== undefined) return files(index.byName(request.fileByFilename), `no file ${request.fileByFilename}`)
  if (request.fileContainingSymbol !== undefined)
    return files(index.bySymbol(request.fileContainingSymbol), `nothing is called ${request.fileContainingSymbol}`)
  if (request.allExtensionNumbersOfType !== undefined) {
    const baseTypeName = request.allExtensionNumbersOfType
    // proto3 has no extensions.
    return index.has(baseTypeName)
      ? { allExtensionNumbersResponse: { baseTypeName, extensionNumber: [] } }
      : failure(Status.NOT_FOUND, `no type ${baseTypeName}`)
  }
  if (request.fileContainingExtension) return failure(Status.NOT_FOUND, 'no file here has extensions')
  return failure(Status.INVALID_ARGUMENT, 'the request asks for nothing')
}

function files(found: readonly Uint8Array[] | undefined, otherwise: string): ServerReflectionResponseInit {
  return found ? { fileDescriptorResponse: { fileDescriptorProto: [...found] } } : failure(Status.NOT_FOUND, otherwise)
}

function failure(errorCode: number, text: string): ServerReflectionResponseInit {
  return { errorResponse: { errorCode, errorMessage: text.slice(0, 500) } }
}
