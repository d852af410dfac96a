/** The service of the behavioural list, as a bundle would hold it. */
import { StatusError, type Service } from '../../services/sdk/service.ts'
import { handlers, PATHS } from './handlers.ts'

export const create = (): Service => {
  const { unary, server, client, bidi } = handlers(({ status, message, ...more }) => new StatusError(status, message, more))
  return {
    methods: [
      { path: PATHS.unary, kind: 'unary', handle: unary },
      { path: PATHS.server, kind: 'serverStream', handle: server },
      { path: PATHS.client, kind: 'clientStream', handle: client },
      { path: PATHS.bidi, kind: 'bidi', handle: bidi },
    ],
    check: (raw) => raw,
    start: async () => {},
    stop: async () => {},
    health: () => ({ status: 'healthy', evidence: {} }),
  }
}
