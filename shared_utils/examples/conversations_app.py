"""A web application that keeps its conversations in the database, beside the bridge's.

Run it with ``DATABASE_URL=postgresql://… uvicorn --factory conversations_app:create_app``: the database is opened with
the application and closed with it; it need not be up at the start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from shared_utils.persistence.conversations.records import Conversation, Message, Role
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import PersistenceError, RowMissing, ValueRefused

_SOURCE: Final = "example"


class NewConversation(BaseModel):
    """What a client says of a conversation."""

    title: str = Field(default="", max_length=200)
    user_id: str | None = None


class NewMessage(BaseModel):
    """What a client adds to one."""

    role: Role
    content: str


class HistoryPage(BaseModel):
    """Messages in the order they were said; ``before`` asks for the ones before them."""

    messages: list[Message]
    before: str | None


def _service(request: Request) -> ConversationService:
    service: ConversationService = request.app.state.conversations
    return service


_Service = Annotated[ConversationService, Depends(_service)]


def create_app(config: DatabaseConfig | None = None) -> FastAPI:
    """The application.

    Args:
        config: its database; by default what the environment says.
    """
    found = config or DatabaseConfig.from_env()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(found)
        app.state.conversations = ConversationService(database, source=_SOURCE)
        yield
        await database.close()

    app = FastAPI(title="Conversations", lifespan=lifespan)
    app.add_exception_handler(PersistenceError, _refusal)
    app.add_exception_handler(ValueError, _refusal)
    app.post("/conversations", status_code=201)(_create)
    app.get("/conversations/{conversation_id}")(_get)
    app.delete("/conversations/{conversation_id}", status_code=204)(_delete)
    app.post("/conversations/{conversation_id}/messages", status_code=201)(_add)
    app.get("/conversations/{conversation_id}/messages")(_history)
    app.get("/search")(_search)
    return app


async def _create(new: NewConversation, service: _Service) -> Conversation:
    return await service.create(new.title, user_id=new.user_id)


async def _get(conversation_id: str, service: _Service) -> Conversation:
    return await service.conversations.get(conversation_id)


async def _delete(conversation_id: str, service: _Service) -> None:
    if not await service.delete(conversation_id):
        raise RowMissing(f"there is no conversation {conversation_id}")


async def _add(conversation_id: str, new: NewMessage, service: _Service) -> Message:
    return await service.add_message(conversation_id, new.role, new.content)


async def _history(conversation_id: str, service: _Service, before: str | None = None) -> HistoryPage:
    page = await service.history(conversation_id, before=before)
    return HistoryPage(messages=list(page.rows), before=page.next)


async def _search(text: Annotated[str, Field(min_length=1, max_length=200)], service: _Service) -> list[Message]:
    return list(await service.search(text))


async def _refusal(_request: Request, error: Exception) -> JSONResponse:
    match error:
        case RowMissing():
            status = 404
        case ValueRefused() | ValueError():
            status = 422
        case PersistenceError(retryable=True):
            status = 503
        case _:
            status = 500
    return JSONResponse({"detail": str(error)}, status_code=status)
